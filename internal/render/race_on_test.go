//go:build race

package render

// raceDetector: the tests run with the race detector.
const raceDetector = true
