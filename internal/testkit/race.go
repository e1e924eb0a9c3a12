//go:build race

package testkit

// RaceDetector says whether to build the programs with it, too.
const RaceDetector = true
