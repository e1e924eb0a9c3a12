package client

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"

	"github.com/telle-ai/event-router/pkg/events"
)

// claims are what a token says of who shows it.
type claims struct {
	Role    string   `json:"role"`
	Dealers textList `json:"dealerId"`
	Groups  textList `json:"groupId"`
}

// claimsOf returns what a token says, unchecked: the router checks it. Of what is no token
// it returns nothing.
func claimsOf(token string) (c claims) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return claims{}
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(text, &c) != nil {
		return claims{}
	}
	return c
}

// A textList is an id or a list of ids.
type textList []string

// UnmarshalJSON implements [json.Unmarshaler].
func (l *textList) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		return nil
	}
	if text[0] != '[' {
		text = slices.Concat([]byte("["), text, []byte("]"))
	}
	var ids []events.ID
	err := json.Unmarshal(text, &ids)
	for _, id := range ids {
		*l = append(*l, id.String())
	}
	return err
}
