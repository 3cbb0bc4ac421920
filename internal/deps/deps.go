// Package deps holds the direction of imports as a test: what a package may
// import of the project is a table, and anything else fails.
package deps
