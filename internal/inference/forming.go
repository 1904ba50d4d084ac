package inference

import "time"

// missesMax bounds how seldom a hold is tried after some that did not pay: once in 1 << missesMax ends of runs.
const missesMax = 6

// forming decides when a batch begins. A worker that becomes free takes what waits at once, unless more is expected at
// once: callers that wait for their answers before they ask again come back together, right after a run has ended.
// So what was around when a run ended (answered just then, or waiting) is expected again, for MaxWait after that end and
// no longer. A hold that did not pay makes the next ones rarer. Its fields are guarded by the pool's mu.
type forming struct {
	Batching

	running  int       // batches that workers execute; the pool counts each as an admitted call
	expected int       // calls that a batch is held back for
	freed    time.Time // when a run last ended
	held     int       // how many waited when the present hold began; 0: there is none
	misses   int       // holds in a row that did not pay
	skip     int       // ends of runs after which nothing is held back
	timer    *time.Timer
}

// ended notes that a run of n calls has ended while waiting others waited.
func (f *forming) ended(now time.Time, n, waiting int) {
	f.freed = now
	f.expected = min(f.MaxSize, n+waiting)
	if f.skip > 0 {
		f.skip--
		f.expected = 0
	}
}

// hold says how long the n calls that wait are held back although a worker is free; 0: not at all.
func (f *forming) hold(now time.Time, n int) time.Duration {
	left := f.freed.Add(f.MaxWait).Sub(now)
	if n >= f.expected || left <= 0 {
		return 0
	}
	if f.held == 0 {
		f.held = n
	}
	return left
}

// began notes that a batch of n begins, and whether holding it back has paid: it is complete, or twice what it was.
func (f *forming) began(n int) {
	switch {
	case f.held == 0:
	case n >= f.expected, n >= 2*f.held:
		f.misses = max(f.misses-1, 0) // one by one: some calls are there by chance
	default:
		f.misses = min(f.misses+1, missesMax)
		f.skip = 1 << f.misses
	}
	f.held, f.expected = 0, 0
}

// holdBack says whether the call that waits longest is held back, and sees to it that the hold ends. The caller
// holds mu.
func (p *Pool) holdBack() bool {
	f := p.forming
	if f == nil || p.waiters.first().call == nil || !p.loneFree() {
		return false
	}
	left := f.hold(time.Now(), p.waiters.length)
	if left <= 0 {
		return false
	}
	if f.timer == nil {
		f.timer = time.AfterFunc(left, p.endHold)
	} else {
		f.timer.Reset(left)
	}
	return true
}

// endHold runs when a hold is over.
func (p *Pool) endHold() {
	p.mu.Lock()
	p.dispatch()
	p.mu.Unlock()
}

// loneFree says whether workers could execute exactly one request more: with more room nothing is gained by waiting. The
// caller holds mu.
func (p *Pool) loneFree() bool {
	free := 0
	for _, w := range p.workers {
		if inc := w.inc; inc != nil && inc.ready && !inc.suspect {
			free += max(inc.slots-inc.busy, 0)
		}
	}
	return free == 1
}

// batches counts the admitted calls that are batches: their parts count already. The caller holds mu.
func (p *Pool) batches() int {
	if p.forming == nil {
		return 0
	}
	return p.forming.running
}
