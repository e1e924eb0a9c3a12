package process

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// envPrefix is what the variables of all flags begin with.
const envPrefix = "TELLE"

// benchVariable tells the benchmark harness where the programs are; it hands its
// environment on to them.
const benchVariable = envPrefix + "_BIN"

// checkEnvironment refuses TELLE_* variables that no process of this project
// reads: they are misspelt. One that only another process reads is fine, since
// processes often share an environment.
func checkEnvironment(own *kong.Kong) error {
	known := append(variables(own), benchVariable)
	for _, other := range []any{&RouterConfig{}, &BridgeConfig{}} {
		k, err := kong.New(other, kong.DefaultEnvars(envPrefix), usual)
		if err != nil {
			return err
		}
		known = append(known, variables(k)...)
	}
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, envPrefix+"_") && !slices.Contains(known, name) {
			return fmt.Errorf("%s is not a variable that anything here reads", name)
		}
	}
	return nil
}

// variables lists what the flags of a parser, and of all its commands, are read
// from.
func variables(k *kong.Kong) (names []string) {
	_ = kong.Visit(k.Model, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			names = append(names, flag.Envs...)
		}
		return next(nil)
	})
	return names
}
