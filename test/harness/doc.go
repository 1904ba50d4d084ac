// Package harness runs the real program for the suites below test/. It owns how the program is built, how a server is
// started, awaited, ended and its host with it, what it leaves behind, and where the packages of Python clients come
// from. It never asks a server anything: that is for the suites.
package harness
