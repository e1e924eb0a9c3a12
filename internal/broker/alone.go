package broker

import "context"

// Alone has one of all processes that call it with the same name do something, until ctx
// ends. do must end when its context does: another process may be about to go on. When it
// returns, with an error that says why, it is called again, here or elsewhere. When the
// process dies, another one does it within 10 s. A name is one token of a subject, and no
// feed's.
func (b *Broker) Alone(ctx context.Context, name string, do func(ctx context.Context) error) error {
	f := b.newFeed(name)
	f.work = func(ctx context.Context, _ *lease) error { return do(ctx) }
	return f.run(ctx)
}
