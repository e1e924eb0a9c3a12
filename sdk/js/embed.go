// Package js holds the client module for browsers, so that the router's console can serve it.
package js

import _ "embed"

// Module is telle.js, an ES module without dependencies.
//
//go:embed telle.js
var Module []byte
