// Package harness runs the real program for the suites below test/. It owns how the program is built, how a server is
// started, awaited, ended and its host with it, and what it leaves behind. It never asks a server anything: that is
// for the suites.
package harness
