package telemetry

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestCollectedMinutes: events add up by minute and kind, for the retention, in bounded memory.
func TestCollectedMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel, err := New(Config{Retention: time.Hour}, quiet)
		if err != nil {
			t.Fatal(err)
		}
		defer tel.Close()
		time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute)))
		begin := time.Now()
		blue := Collected{Endpoint: "ep", Deployment: "blue", Instance: "i", Collection: "in"}
		lost := blue
		lost.Reason = UncollectedQueue
		tel.Collected(blue)
		tel.Collected(blue)
		tel.Collected(lost)
		tel.Collected(Collected{Endpoint: "other", Deployment: "blue", Collection: "in"})
		time.Sleep(time.Minute)
		tel.Collected(blue)
		got := fmt.Sprint(tel.CollectedMinutes("ep", begin, time.Now().Add(time.Second)))
		want := fmt.Sprint([]CollectedMinute{{begin.UTC(), blue, 2}, {begin.UTC(), lost, 1}, {begin.UTC().Add(time.Minute), blue, 1}})
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		time.Sleep(2 * time.Hour)
		if got := tel.CollectedMinutes("ep", begin, time.Now()); len(got) != 0 || tel.collected.rows != 0 {
			t.Errorf("beyond the retention: %v, %d rows", got, tel.collected.rows)
		}
	})
	var h collectedHistory
	for i := range MaxCollectedRows + 10 {
		h.add(Collected{Instance: fmt.Sprint(i)}, int64(i/1000)+1)
	}
	if h.rows > MaxCollectedRows || len(h.minutes) != 100 {
		t.Errorf("%d rows in %d minutes are kept", h.rows, len(h.minutes))
	}
}
