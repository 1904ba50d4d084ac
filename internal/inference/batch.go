package inference

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"time"
)

// Batching says how calls that wait for a worker are answered together, by one run. The zero value: not at all.
type Batching struct {
	MaxSize int           // calls of one batch; below 2 there are none
	MaxWait time.Duration // how long a batch that could start may be held back for calls that are expected
}

// Bounds of batches.
const (
	batchSizeMax   = 256      // of Batching.MaxSize; the worker takes no more
	batchBytes     = 4 << 20  // of the calls of one batch together; a larger one goes alone
	batchAnswerMax = 96 << 20 // of the answers of a batch; the worker keeps their bodies below 64 MiB together
)

// post is the method of the calls that are joined, and of what carries them.
const post = "POST"

// batchField names the sizes of the calls in the body of a joint request. Its prefix is not accepted from callers.
const batchField = "x-portico-batch"

// VariableBatching is the environment variable that tells a worker that it gets joint requests: "true".
const VariableBatching = "PORTICO_BATCHING"

// batch is a joint request on its way: the calls of several callers, executed at once. It is an exchange of its own
// and belongs to none of them; each may give up, and only when all have is the run canceled.
type batch struct {
	pool    *Pool
	lane    *lane
	cancel  context.CancelFunc
	written chan struct{} // closed when the calls were copied, and their callers may take them back
	sent    []int         // items that the worker was given, in that order; of run alone

	// Guarded by the pool's mu:
	items   []*waiter // nil where the caller has given up
	waiting int       // items that are not nil
}

// joinable says whether a call may be part of a batch: it is scored, and does not fill one by itself.
func joinable(call *Call) bool { return call.Method == post && weight(call) <= batchBytes }

func weight(call *Call) int {
	n := len(call.Body)
	for i := range call.Header {
		n += len(call.Header[i].Name) + len(call.Header[i].Value)
	}
	return n
}

// doJoined is Do for a call that may be answered together with others. Alone it is sent as any call is.
func (p *Pool) doJoined(ctx context.Context, call *Call) (*Answer, error) {
	for attempt := range attemptsMax {
		ln, answer, err := p.acquireJoined(ctx, call, attempt > 0)
		if ln != nil {
			answer, err = ln.exchange(ctx, call)
			if err == nil {
				answer.Batch = 1
				return answer, nil // whoever reads the answer leaves
			}
		}
		if !errors.Is(err, errAgain) {
			p.leave()
			return answer, err
		}
	}
	p.leave()
	return nil, ErrClosed
}

// acquireJoined waits for a lane of the call's own, or for its answer in a batch. errAgain: its batch was not started.
func (p *Pool) acquireJoined(ctx context.Context, call *Call, again bool) (*lane, *Answer, error) {
	left, ok := timeLeft(call, time.Now())
	if !ok {
		return nil, nil, ErrDeadline
	}
	wt := newWaiter(false)
	wt.call = call
	p.mu.Lock()
	if p.ending != goingOn {
		p.mu.Unlock()
		wt.free()
		return nil, nil, ErrClosed
	}
	if again {
		p.waiters.pushFront(wt)
	} else {
		p.waiters.push(wt)
	}
	p.dispatch()
	p.mu.Unlock()
	wt.timer.Reset(left)
	var gaveUp error
	select {
	case <-wt.done:
	case <-ctx.Done():
		gaveUp = ctxError(ctx)
	case <-wt.timer.C:
		gaveUp = ErrDeadline
	}
	wt.timer.Stop()
	if gaveUp != nil {
		p.giveUpJoined(wt)
	}
	ln, answer, err := wt.lane, wt.answer, wt.err
	wt.free()
	if gaveUp != nil {
		return nil, nil, gaveUp
	}
	return ln, answer, err
}

// giveUpJoined takes a call that nobody waits for any more out of the queue, off its lane or out of its batch.
func (p *Pool) giveUpJoined(wt *waiter) {
	p.mu.Lock()
	b := wt.batch
	switch {
	case wt.lane != nil: // handed over in the same moment
		p.releaseLocked(wt.lane)
	case b != nil:
		b.drop(wt)
	default:
		p.waiters.remove(wt)
	}
	p.mu.Unlock()
	if b != nil {
		<-b.written // copying is all that is waited for: the caller takes its memory back now
	}
}

// drop takes an item out of the batch; the last one cancels it. The caller holds mu.
func (b *batch) drop(wt *waiter) {
	for i := range b.items {
		if b.items[i] == wt {
			b.items[i] = nil
			if b.waiting--; b.waiting == 0 {
				b.cancel()
			}
			return
		}
	}
}

// join makes a batch of the first call and of what waits behind it, as far as that fits, and sends it on its way.
// False: the call is alone. The caller holds mu.
func (p *Pool) join(first *waiter, ln *lane) bool {
	if first.call == nil {
		return false
	}
	items, size := []*waiter{first}, weight(first.call)
	for wt := p.waiters.first(); wt != nil && len(items) < p.forming.MaxSize; {
		next := wt.next
		if wt.call != nil {
			if size += weight(wt.call); size > batchBytes {
				break
			}
			p.waiters.remove(wt)
			items = append(items, wt)
		}
		wt = next
	}
	p.forming.began(len(items))
	if len(items) == 1 {
		return false
	}
	ctx, cancel := context.WithCancel(context.Background())
	b := &batch{
		pool: p, lane: ln, cancel: cancel, written: make(chan struct{}), items: items, waiting: len(items),
	}
	for _, wt := range items {
		wt.batch = b
	}
	ln.joined = len(items)
	p.admitted++ // it ends as a call does
	p.forming.running++
	p.wg.Go(func() {
		defer cancel()
		b.run(ctx)
	})
	return true
}

// run sends the batch and gives every caller that still waits its own part of the outcome.
func (b *batch) run(ctx context.Context) {
	call := b.write()
	if len(b.sent) == 0 {
		b.pool.finish(b.lane)
		b.give(nil, ErrDeadline)
		return
	}
	answer, err := b.lane.exchange(ctx, call)
	if err != nil {
		b.pool.leave()
		b.give(nil, err)
		return
	}
	parts, err := readJoint(answer, len(b.sent)) // whoever reads the answer leaves
	var protocol *protocolError
	if errors.As(err, &protocol) {
		err = lost(b.pool.cfg.Instance, "the worker broke the %s", protocol.Error())
	}
	b.give(parts, err)
}

// write puts the calls behind one another into the body of one. Those whose deadline has passed, or that cannot be
// sent, are told so and left out.
func (b *batch) write() *Call {
	defer close(b.written)
	b.pool.mu.Lock()
	items := append([]*waiter(nil), b.items...) // their calls stay valid until written is closed
	b.pool.mu.Unlock()
	joint := &Call{Method: post, Path: "/score"}
	var sizes []byte
	now := time.Now()
	var one link // only for its way of writing a head
	for i, wt := range items {
		if wt == nil {
			continue
		}
		left, ok := timeLeft(wt.call, now)
		err := ErrDeadline
		if ok {
			err = one.begin(wt.call, "", b.lane.number, left)
		}
		if err != nil {
			b.refuse(i, err)
			continue
		}
		if len(sizes) > 0 {
			sizes = append(sizes, ',')
		}
		sizes = strconv.AppendInt(sizes, int64(len(one.out)+len(wt.call.Body)), 10)
		b.sent = append(b.sent, i)
		joint.Body = append(append(joint.Body, one.out...), wt.call.Body...)
		if wt.call.Deadline.After(joint.Deadline) {
			joint.Deadline = wt.call.Deadline
		}
	}
	joint.joined = string(sizes)
	return joint
}

// refuse ends one item before the batch begins.
func (b *batch) refuse(i int, err error) {
	b.pool.mu.Lock()
	defer b.pool.mu.Unlock()
	if wt := b.items[i]; wt != nil {
		b.items[i] = nil
		b.waiting--
		wt.refuse(err)
	}
}

// part is what one item of a batch comes to.
type part struct {
	answer *Answer
	err    error
}

// give ends the batch: every caller that still waits gets its part, or err.
func (b *batch) give(parts []part, err error) {
	p := b.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forming.running--
	size := len(b.sent)
	for n, i := range b.sent {
		wt := b.items[i]
		if wt == nil {
			continue
		}
		b.items[i] = nil
		if err != nil {
			wt.refuse(err)
			continue
		}
		wt.answer, wt.err = parts[n].answer, parts[n].err
		if wt.answer != nil {
			wt.answer.Batch, size = size, 0
		}
		wt.done <- struct{}{}
	}
}

// readJoint reads the answer of a batch to its end and takes it apart.
func readJoint(answer *Answer, n int) ([]part, error) {
	defer answer.Body.Close() // a part that was not read gives up the connection
	if answer.Status != 200 || answer.ContentLength < 0 || answer.ContentLength > batchAnswerMax {
		return nil, &protocolError{"an answer of status " + strconv.Itoa(answer.Status) + " and " +
			strconv.FormatInt(answer.ContentLength, 10) + " bytes to a batch"}
	}
	var all bytes.Buffer
	all.Grow(int(answer.ContentLength) + bytes.MinRead)
	if _, err := all.ReadFrom(answer.Body); err != nil {
		return nil, err
	}
	return splitJoint(all.Bytes(), n)
}

// splitJoint takes n answers that follow one another apart.
func splitJoint(data []byte, n int) ([]part, error) {
	parts := make([]part, 0, n)
	for range n {
		end := bytes.Index(data, []byte("\r\n\r\n"))
		if end < 0 {
			return nil, &protocolError{"a batch's answer is too short"}
		}
		h, err := parseHead(data[:end+2], post, false)
		if err != nil {
			return nil, err
		}
		if data = data[end+4:]; h.length < 0 || h.length > int64(len(data)) {
			return nil, &protocolError{"a batch's answer is too short"}
		}
		if h.excess { // it would be read as the answer of the next caller
			return nil, &protocolError{"a batch's answer has a body with status " + strconv.Itoa(h.status)}
		}
		body := data[:h.length]
		data = data[h.length:]
		switch {
		case string(h.refused) == "deadline":
			parts = append(parts, part{err: ErrDeadline})
		case h.refused != nil:
			parts = append(parts, part{err: errAgain})
		default:
			answer, text := newAnswer(h, body)
			answer.text.Reset(text)
			answer.Body = answer
			parts = append(parts, part{answer: &answer.Answer})
		}
	}
	if len(data) > 0 {
		return nil, &protocolError{"a batch's answer is too long"}
	}
	return parts, nil
}
