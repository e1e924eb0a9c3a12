package tracing

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Variables that are read here, or in more than one place. OpenTelemetry's libraries read
// the others by themselves; but what they cannot use they pass over, so all are checked.
const (
	sdkDisabled        = "OTEL_SDK_DISABLED"
	tracesExporter     = "OTEL_TRACES_EXPORTER"
	propagators        = "OTEL_PROPAGATORS"
	resourceAttributes = "OTEL_RESOURCE_ATTRIBUTES"
	sampler            = "OTEL_TRACES_SAMPLER"
	samplerArg         = "OTEL_TRACES_SAMPLER_ARG"

	// Each of these may stand for all signals or, with TRACES_ before the last part, for
	// traces: then that one counts.
	prefix = "OTEL_EXPORTER_OTLP_"
)

const (
	overGRPC = "grpc"
	overHTTP = "http/protobuf"
	overJSON = "http/json"
)

func variable(name string) string { return strings.TrimSpace(os.Getenv(name)) }

// ofOTLP returns a setting of the exporter, or "".
func ofOTLP(setting string) string {
	if v := variable(prefix + "TRACES_" + setting); v != "" {
		return v
	}
	return variable(prefix + setting)
}

func endpoint() string { return ofOTLP("ENDPOINT") }

func protocol() string {
	if p := ofOTLP("PROTOCOL"); p != "" {
		return p
	}
	return overHTTP
}

// collector returns where the collector is, without what may be a secret.
func collector() string {
	u, err := url.Parse(endpoint())
	switch {
	case err == nil && u.Host != "":
		return u.Host
	case protocol() == overGRPC:
		return "localhost:4317"
	}
	return "localhost:4318"
}

// enabled reports whether traces are asked for: by name, or by saying where a collector
// is.
func enabled() (bool, error) {
	disabled := variable(sdkDisabled)
	if reason := boolean(disabled); disabled != "" && reason != "" {
		return false, fmt.Errorf("%s %s", sdkDisabled, reason)
	}
	if strings.EqualFold(disabled, "true") {
		return false, nil
	}
	switch exporter := variable(tracesExporter); exporter {
	case "":
		return endpoint() != "", nil
	case "none":
		return false, nil
	case "otlp":
		return true, nil
	default:
		return false, fmt.Errorf("%s must be otlp or none, not %q", tracesExporter, exporter)
	}
}

// carries reports whether the traces of messages count. What else a propagator may
// carry, none of our messages does.
func carries() bool {
	names := variable(propagators)
	return names == "" || slices.Contains(list(names), "tracecontext")
}

// Check returns what is wrong with the variables, if traces are asked for. The errors
// name them, and have no word of those that may hold secrets.
func Check() error {
	if on, err := enabled(); !on {
		return err
	}
	return check()
}

// A rule says what is wrong with the value of a variable, or "".
type rule func(value string) (reason string)

func check() error {
	var errs []error
	hold := func(name string, r rule) {
		if v := variable(name); v != "" {
			if reason := r(v); reason != "" {
				errs = append(errs, fmt.Errorf("%s %s", name, reason))
			}
		}
	}
	for setting, r := range exporterRules {
		hold(prefix+setting, r)
		hold(prefix+"TRACES_"+setting, r)
	}
	for name, r := range otherRules {
		hold(name, r)
	}
	if s := variable(sampler); strings.HasSuffix(strings.ToLower(s), "traceidratio") {
		hold(samplerArg, ratio)
	}
	errs = append(errs, checkKeyPair(""), checkKeyPair("TRACES_"))
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return errors.Join(errs...)
}

var exporterRules = map[string]rule{
	"ENDPOINT":    address,
	"PROTOCOL":    oneOf(overGRPC, overHTTP, overJSON),
	"HEADERS":     headers,
	"TIMEOUT":     positive(mostMillis),
	"COMPRESSION": oneOf("gzip", "none"),
	"INSECURE":    boolean,
	"CERTIFICATE": authorities,
}

var otherRules = map[string]rule{
	propagators:                              eachOf("tracecontext", "baggage", "none"),
	resourceAttributes:                       attributes,
	sampler:                                  samplers,
	"OTEL_BSP_SCHEDULE_DELAY":                positive(mostMillis),
	"OTEL_BSP_EXPORT_TIMEOUT":                positive(mostMillis),
	"OTEL_BSP_MAX_QUEUE_SIZE":                positive(mostSpans),
	"OTEL_BSP_MAX_EXPORT_BATCH_SIZE":         positive(mostSpans),
	"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT":      integer,
	"OTEL_ATTRIBUTE_COUNT_LIMIT":             integer,
	"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT":        integer,
	"OTEL_SPAN_EVENT_COUNT_LIMIT":            integer,
	"OTEL_SPAN_LINK_COUNT_LIMIT":             integer,
	"OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT":       integer,
	"OTEL_LINK_ATTRIBUTE_COUNT_LIMIT":        integer,
	"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": integer,
}

const (
	mostMillis = 24 * 60 * 60 * 1000
	mostSpans  = 1_000_000 // a queue for so many is made at the start
)

func boolean(v string) string {
	if strings.EqualFold(v, "true") || strings.EqualFold(v, "false") {
		return ""
	}
	return fmt.Sprintf("must be true or false, not %q", v)
}

func integer(v string) string {
	if _, err := strconv.Atoi(v); err != nil {
		return fmt.Sprintf("must be an integer, not %q", v)
	}
	return ""
}

func positive(most int) rule {
	return func(v string) string {
		if n, err := strconv.Atoi(v); err != nil || n <= 0 || n > most {
			return fmt.Sprintf("must be an integer from 1 to %d, not %q", most, v)
		}
		return ""
	}
}

func ratio(v string) string {
	if f, err := strconv.ParseFloat(v, 64); err != nil || !(0 <= f && f <= 1) {
		return fmt.Sprintf("must be a number from 0 to 1, not %q", v)
	}
	return ""
}

func oneOf(words ...string) rule {
	return func(v string) string {
		if slices.Contains(words, v) {
			return ""
		}
		return fmt.Sprintf("must be one of %s, not %q", strings.Join(words, ", "), v)
	}
}

func samplers(v string) string {
	return oneOf("always_on", "always_off", "traceidratio",
		"parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio")(strings.ToLower(v))
}

func eachOf(words ...string) rule {
	return func(v string) string {
		for _, word := range list(v) {
			if reason := oneOf(words...)(word); reason != "" {
				return reason
			}
		}
		return ""
	}
}

// list returns what stands between commas.
func list(v string) []string {
	words := strings.Split(v, ",")
	for i := range words {
		words[i] = strings.TrimSpace(words[i])
	}
	return words
}

// address does not repeat the URL, which may hold a password.
func address(v string) string {
	u, err := url.Parse(v)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "must be http://host[:port] or https://host[:port], with a path or not"
	}
	return ""
}

func attributes(v string) string {
	for _, pair := range list(v) {
		if key, value, ok := strings.Cut(pair, "="); !ok || strings.TrimSpace(key) == "" || !escaped(value) {
			return fmt.Sprintf("must be key=value,…, which %q is not", pair)
		}
	}
	return ""
}

// headers does not repeat them: they often hold a token.
func headers(v string) string {
	for i, pair := range list(v) {
		if name, value, ok := strings.Cut(pair, "="); !ok || !isToken(strings.TrimSpace(name)) || !escaped(value) {
			return fmt.Sprintf("must be name=value,…, which number %d is not", i+1)
		}
	}
	return ""
}

func escaped(v string) bool {
	_, err := url.PathUnescape(v)
	return err == nil
}

// isToken reports whether this may be a header's name.
func isToken(name string) bool {
	const marks = "!#$%&'*+-.^_`|~"
	return name != "" && strings.IndexFunc(name, func(r rune) bool {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		return !letter && !strings.ContainsRune(marks, r)
	}) < 0
}

func authorities(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	if !x509.NewCertPool().AppendCertsFromPEM(b) {
		return fmt.Sprintf("%s holds no certificate", file)
	}
	return ""
}

// checkKeyPair checks what is shown to the collector.
func checkKeyPair(signal string) error {
	certificate, key := prefix+signal+"CLIENT_CERTIFICATE", prefix+signal+"CLIENT_KEY"
	c, k := variable(certificate), variable(key)
	if c == "" && k == "" {
		return nil
	}
	if c == "" || k == "" {
		return fmt.Errorf("%s and %s go together", certificate, key)
	}
	if _, err := tls.LoadX509KeyPair(c, k); err != nil {
		return fmt.Errorf("%s, %s: %w", certificate, key, err)
	}
	return nil
}
