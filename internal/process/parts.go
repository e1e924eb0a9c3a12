package process

import "sync"

// parts are what runs for as long as a process lives.
type parts struct {
	running sync.WaitGroup
	failed  chan error // the first failure
}

func newParts() *parts { return &parts{failed: make(chan error, 1)} }

// start runs a part. Its error ends the process; a part may also end without one.
func (p *parts) start(run func() error) {
	p.running.Go(func() {
		if err := run(); err != nil {
			select {
			case p.failed <- err:
			default: // another part failed before
			}
		}
	})
}

// wait returns when the process is to end, with the error of the part that has
// failed, if that is why.
func (p *parts) wait(life Life) error {
	select {
	case err := <-p.failed:
		return err
	case <-life.Drain.Done():
	case <-life.Stop.Done():
	}
	return nil
}

// stopped returns when all parts have ended.
func (p *parts) stopped() { p.running.Wait() }
