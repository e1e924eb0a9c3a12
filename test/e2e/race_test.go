//go:build race

package e2e

// raceDetector says whether to build the programs with it, too.
const raceDetector = true
