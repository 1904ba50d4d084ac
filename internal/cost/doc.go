// Package cost says what instances cost: pure arithmetic over the stretches of time in which they existed and a price
// list.
//
// It owns the meaning of a price, of a day and of a month of use (UTC, always), and nothing else: it reads no clock, no
// store and no configuration, and never rounds time.
package cost
