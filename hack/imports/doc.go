// Package imports holds no code but a test: which package may import which,
// and what comes from outside. A new arrow or dependency is a line in there,
// with its reason.
package imports
