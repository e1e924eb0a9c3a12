package process

import (
	"errors"
	"fmt"
	"path"
)

// CheckOrigins says which of the values of --allowed-origins are no patterns.
func CheckOrigins(patterns []string) error {
	var errs []error
	for _, pattern := range patterns {
		if _, err := path.Match(pattern, ""); err != nil {
			errs = append(errs, fmt.Errorf("--allowed-origins: %q is not a pattern", pattern))
		}
	}
	return errors.Join(errs...)
}
