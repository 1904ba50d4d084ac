package inference

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"
)

// BenchmarkPoolEcho is the whole way through one real Python worker: connections are callers, max_concurrent equals
// their number.
func BenchmarkPoolEcho(b *testing.B) {
	for _, callers := range []int{1, 2, 3, 4, 8, 16} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			p := newPool(b, newProcesses(b, echoScript), PoolConfig{MaxConcurrent: callers})
			waitState(b, p, StateReady)
			body := `{"data": [[5.1,3.5,1.4,0.2],[6.2,3.4,5.4,2.3],[1,2,3,4]]}`
			left := make(chan struct{}, b.N)
			for range b.N {
				left <- struct{}{}
			}
			close(left)
			done := make(chan error, callers)
			b.ReportAllocs()
			b.ResetTimer()
			for range callers {
				go func() {
					call := newCall(body, time.Hour)
					ctx, cancel := context.WithCancel(b.Context())
					defer cancel()
					for range left {
						call.Deadline = time.Now().Add(5 * time.Second)
						answer, err := p.Do(ctx, call)
						if err != nil {
							done <- err
							return
						}
						_, _ = io.Copy(io.Discard, answer.Body)
						_ = answer.Body.Close()
					}
					done <- nil
				}()
			}
			for range callers {
				if err := <-done; err != nil {
					b.Error(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
		})
	}
}
