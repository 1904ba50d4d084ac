// Package floors holds no code: its test proves which package may look at which.
package floors
