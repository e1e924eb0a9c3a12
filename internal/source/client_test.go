package source

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

func TestAURLLeadsToAServerToSentinelsOrToACluster(t *testing.T) {
	for url, want := range map[string]string{
		"redis://host":                                                  "*redis.Client of Redis<host:6379",
		"unix:///run/redis.sock":                                        "*redis.Client of Redis</run/redis.sock",
		"rediss://u:p@host:1/2?dial_timeout=3s":                         "*redis.Client of Redis<host:1",
		"redis://s1?master_name=m&addr=s2:26379":                        "*redis.Client of Redis<FailoverClient",
		"redis://su:sp@s1/1?master_name=m&username=mu&password=mp":      "*redis.Client of Redis<FailoverClient",
		"redis://u:p@a:1?addr=b:2&addr=c:3&client_name=mine":            "*redis.ClusterClient",
		"rediss://a?addr=b:2&min_idle_conns=3":                          "*redis.ClusterClient",
		"redis://host:1?min_idle_conns=0&protocol=3&max_retries=7":      "*redis.Client of Redis<host:1",
		"redis://s1?master_name=m&client_name=mine&protocol=3&addr=b:2": "*redis.Client of Redis<FailoverClient",
	} {
		client, err := newClient(url, "telle", Login{})
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		got := fmt.Sprintf("%T", client)
		name, protocol, retries := "", 0, 0
		switch c := client.(type) {
		case *redis.Client:
			o := c.Options()
			got += " of " + c.String()
			name, protocol, retries = o.ClientName, o.Protocol, o.MaxRetries
		case *redis.ClusterClient:
			o := c.Options()
			name, protocol, retries = o.ClientName, o.Protocol, o.MaxRetries
		}
		if !strings.HasPrefix(got, want) {
			t.Errorf("%s leads to a %s, want a %s", url, got, want)
		}
		wantName := "telle"
		if strings.Contains(url, "client_name") {
			wantName = "mine"
		}
		if name != wantName || protocol != 2 || retries > 0 {
			t.Errorf("%s: connections named %q speak RESP%d with %d retries", url, name, protocol, retries)
		}
		client.Close()
	}
}

func TestABadURLIsToldByItsFormWithoutThePassword(t *testing.T) {
	for url, form := range map[string]string{
		"redis://:geheim@host/x":                               "host[:port][/db]",
		"redis://:geheim@host?master_name=":                    "master_name=name",
		"redis://:geheim@host?master_name=m&geheim=1":          "master_name=name",
		"redis://:geheim@host?master_name=m&route_randomly=1":  "master_name=name",
		"redis://:geheim@host?master_name=m&replica_only=true": "master_name=name",
		"unix://:geheim@/sock?master_name=m":                   "master_name=name",
		"redis://:geheim@host?addr=geheim":                     "addr=host:port",
		"redis://:geheim@host?addr=b:1&geheim=2":               "addr=host:port",
		"geheim":                                               "does not begin with",
	} {
		err := checkURL(url, Login{})
		if err == nil {
			t.Errorf("%s was accepted", url)
			continue
		}
		text := err.Error()
		if !strings.HasPrefix(text, "--redis-url") || !strings.Contains(text, form) || strings.Contains(text, "heim") {
			t.Errorf("%s: %v", url, err)
		}
	}
}
