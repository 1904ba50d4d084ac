package host

import (
	"context"
	"syscall"
	"time"
)

// pump moves what the process prints into its log until every writer closed the pipe.
func (p *proc) pump() {
	defer close(p.pumped)
	defer p.log.close()
	buf := make([]byte, outputBufferBytes)
	for {
		n, err := p.out.Read(buf)
		if n > 0 {
			p.log.write(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// attend waits for the end of a process, ends what it left behind, and then records and tells its exit.
func (s *supervisor) attend(p *proc) {
	d := <-p.child.died
	p.forks.stop()
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	err := endMembers(ctx, p.rec)
	if err != nil { // its user id, and those of its forks, stay taken: a stranger must not meet what is left
		s.log.Error("process left others behind that do not end", "id", p.rec.ID, "error", err)
	} else {
		if p.user != nil {
			p.user.release()
		}
		p.forks.left()
	}
	if p.root != nil {
		p.root.egress.close(s.children)
	}
	p.finishOutput()
	oom := s.platform.oomKills(p.rec.Cgroups) > 0
	s.platform.removeCgroups(p.rec.Cgroups)
	removeSocket(p.rec.Socket)
	if p.page != nil {
		if err := p.page.keep(); err != nil {
			s.log.Error("status page not kept", "id", p.rec.ID, "error", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p.root.close()
	exit := exitOf(d)
	exit.OOMKilled = oom && !p.killed && exit.Code != 0
	exit.Tail = p.log.lastLines()
	p.log.ended(exit)
	s.recordExit(p, exit)
	s.log.Info("process ended", "id", p.rec.ID, "pid", p.rec.PID,
		"code", exit.Code, "signal", exit.Signal, "oom", exit.OOMKilled)
	s.publish(p.rec.Process)
	if err := rollHostLog(s.cfg.DataDir); err != nil {
		s.log.Error("host log not put aside", "error", err)
	}
}

// recordExit makes the exit durable. A disk that takes nothing more, in spite of the journal's reserve, must not
// keep callers from healing what died: the exit is told then too, and the log says that it was not recorded.
func (s *supervisor) recordExit(p *proc, exit Exit) {
	if err := s.journal.append(entry{Exit: &exitEntry{ID: p.rec.ID, Exit: exit}}); err != nil {
		s.log.Error("exit not recorded", "id", p.rec.ID, "error", err)
		s.journal.apply(entry{Exit: &exitEntry{ID: p.rec.ID, Exit: exit}})
	}
	delete(s.procs, p.rec.ID)
	for _, id := range s.journal.surplus() {
		if err := s.journal.append(entry{Forget: id}); err != nil {
			s.log.Error("old exit not forgotten", "id", id, "error", err)
			return
		}
	}
}

// finishOutput waits for the rest of the output. All writers are gone, unless one could not be ended.
func (p *proc) finishOutput() {
	t := time.NewTimer(outputTimeout)
	defer t.Stop()
	select {
	case <-p.pumped:
	case <-t.C:
	}
	_ = p.out.Close()
	<-p.pumped
}

func exitOf(d death) Exit {
	e := Exit{
		Code: d.status.ExitStatus(), Core: d.status.CoreDump(), At: d.at.UTC(),
		UserTime: time.Duration(d.usage.Utime.Nano()), SystemTime: time.Duration(d.usage.Stime.Nano()),
		MaxRSS: d.usage.Maxrss * maxRSSUnit,
	}
	if d.status.Signaled() {
		e.Code, e.Signal = -1, int(d.status.Signal())
	}
	return e
}

// signalProc signals the group of a running process. The supervisor's lock is held.
func (s *supervisor) signalProc(p *proc, sig syscall.Signal) {
	if !p.running {
		return
	}
	if sig == syscall.SIGKILL {
		p.killed = true
	}
	if err := s.children.signal(p.child, sig, true); err != nil {
		s.log.Warn("signal not sent", "id", p.rec.ID, "signal", int(sig), "error", err)
	}
}
