package host

import "sync"

// forkIDs is the user ids of the forks of one server.
//
// What packages run at their import runs before the fork is held to anything: a package that means harm can leave a
// process of its own in the namespace of a fork, which may become the fork's user later. Ending the cgroups of the
// server and of all its forks ends it for certain. Until then no id leaves them: at worst the forks of one server
// meet, whose imports are the same.
type forkIDs struct {
	users *users

	mu      sync.Mutex
	idle    []*userLease // of forks that have ended
	members int          // the server and its forks, until all that they started has ended
}

// newForkIDs is that of a server that has no forks yet; nil where there are no user ids.
func newForkIDs(u *users) *forkIDs {
	if u == nil {
		return nil
	}
	return &forkIDs{users: u, members: 1}
}

// take gives an id to a fork: one that they have, else a new one.
func (f *forkIDs) take() (*userLease, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.idle) > 0 {
		used, err := usersInUse(f.users.first, f.users.last)
		if err != nil {
			return nil, err
		}
		for i, l := range f.idle {
			if !used[l.uid] {
				f.idle = append(f.idle[:i:i], f.idle[i+1:]...)
				f.members++
				return l, nil
			}
		}
	}
	l, err := f.users.take()
	if err != nil {
		return nil, err
	}
	l.ids = f
	f.members++
	return l, nil
}

// back takes the id of a fork that has ended, with all that it started.
func (f *forkIDs) back(l *userLease) {
	f.mu.Lock()
	f.idle = append(f.idle, l)
	f.mu.Unlock()
	f.leave()
}

// leave says that the server has ended, with all that it started, or a fork. The last one frees the ids.
func (f *forkIDs) leave() {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.members--; f.members > 0 {
		return
	}
	for _, l := range f.idle {
		l.free()
	}
	f.idle = nil
}
