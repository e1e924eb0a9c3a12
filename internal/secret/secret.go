// Package secret reads what a deployment keeps in files beside its configuration:
// passwords, keys, certificates. Whoever needs one reads it when it is needed, so that it
// can be exchanged without a restart. No error holds a word of what is in a file.
package secret

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// ErrEmpty is under the error about a file that holds nothing.
var ErrEmpty = errors.New("is empty")

// Read returns what a file holds, but for the end of its line. An empty file is an error.
func Read(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	b = bytes.TrimRight(b, "\r\n")
	if len(b) == 0 {
		return "", fmt.Errorf("%s %w", file, ErrEmpty)
	}
	return string(b), nil
}

// Of returns a secret that is given by a flag, or by a file that the flag of that name and
// -file names; "" if by neither.
func Of(flag, value, file string) (string, error) {
	if err := NotBoth(flag, value, flag+"-file", file); err != nil || file == "" {
		return value, err
	}
	text, err := Read(file)
	if err != nil {
		return "", fmt.Errorf("%s-file: %w", flag, err)
	}
	return text, nil
}

// CAs returns the certificates of authorities that a PEM file holds.
func CAs(file string) (*x509.CertPool, error) {
	text, err := Read(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(text)) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return pool, nil
}

// Check says what is wrong with the file of a flag, if one is given: that it cannot be
// read, is empty, or what try finds.
func Check(flag, file string, try func(file string) error) error {
	if file == "" {
		return nil
	}
	_, err := Read(file)
	if err == nil && try != nil {
		err = try(file)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	return nil
}

// CheckCAs is [Check] for certificates of authorities.
func CheckCAs(flag, file string) error {
	return Check(flag, file, func(file string) error { _, err := CAs(file); return err })
}

// CheckPair says what is wrong with a certificate and its key, if one is given.
func CheckPair(certFlag, certFile, keyFlag, keyFile string) error {
	switch {
	case certFile == "" && keyFile == "":
		return nil
	case certFile == "" || keyFile == "":
		return fmt.Errorf("%s and %s need each other", certFlag, keyFlag)
	}
	err := errors.Join(Check(certFlag, certFile, nil), Check(keyFlag, keyFile, nil))
	if err != nil {
		return err
	}
	if _, err := tls.LoadX509KeyPair(certFile, keyFile); err != nil {
		return fmt.Errorf("%s, %s: %w", certFlag, keyFlag, err)
	}
	return nil
}

// NotBoth says that two flags are given, of which there can only be one.
func NotBoth(flag, value, other, otherValue string) error {
	if value != "" && otherValue != "" {
		return fmt.Errorf("%s and %s are both given", flag, other)
	}
	return nil
}
