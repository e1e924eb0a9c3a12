// Package auth is the room that says who a client is and what it may do.
package auth

import (
	"context"
	"errors"
)

// Closed lets nobody in. It is what a process has that was not told how clients
// prove who they are.
type Closed struct{}

// Identify refuses.
func (Closed) Identify(context.Context, *Handshake) (Identity, error) {
	return Identity{}, errors.New("--auth is not set: every client is refused")
}

// None believes every client what it says of itself. It is for development.
type None struct{}

// Identify takes role, dealerId, groupId and adminId from the handshake's names.
// The error names the one that is missing or wrong.
func (None) Identify(_ context.Context, h *Handshake) (Identity, error) {
	id := Identity{
		Role:    Role(h.Get("role")),
		Dealers: h.Names["dealerId"],
		AdminID: h.Get("adminId"),
	}
	if id.Role == Customer {
		id.Groups = h.Names["groupId"]
	} else {
		id.First = h.Names["groupId"]
	}
	return id, id.check()
}

// An identifier is one of this room's, or what surrounds one.
type identifier interface {
	Identify(ctx context.Context, h *Handshake) (Identity, error)
}

// Services lets in who another one knows, if it is a service.
type Services struct{ Of identifier }

// Identify returns an error under [ErrForbidden] for customers and admins.
func (s Services) Identify(ctx context.Context, h *Handshake) (Identity, error) {
	id, err := s.Of.Identify(ctx, h)
	if err == nil && id.Role != Service {
		err = forbidden("only services connect to a bridge: customers and admins connect to a router")
	}
	return id, err
}
