package socketio

import "strconv"

// AppendEvent appends an event; data is JSON and is not checked:
//
//	42["name",<data>]   42["name"] if data is empty
//
// A client that was given a pid takes the last element of an event, if it is a
// string, for its offset, be it the name. So what it is sent without an offset
// needs data that is no string.
func AppendEvent(dst []byte, name string, data []byte) []byte {
	return append(appendEvent(dst, name, data), ']')
}

// AppendEventAt appends an event with the offset that a client names when it
// comes back, which is a string to the client:
//
//	42["name",<data>,"1235"]
func AppendEventAt(dst []byte, name string, data []byte, offset uint64) []byte {
	dst = append(appendEvent(dst, name, data), `,"`...)
	dst = strconv.AppendUint(dst, offset, 10)
	return append(dst, `"]`...)
}

// appendEvent appends an event but for its end.
func appendEvent(dst []byte, name string, data []byte) []byte {
	dst = append(dst, `42[`...)
	dst = appendString(dst, name)
	if len(data) > 0 {
		dst = append(dst, ',')
		dst = append(dst, data...)
	}
	return dst
}

// AppendAck appends the answer to an event that had an id; data is JSON and is not
// checked:
//
//	43<id>[<data>]   43<id>[] if data is empty
func AppendAck(dst []byte, id uint64, data []byte) []byte {
	dst = append(dst, `43`...)
	dst = strconv.AppendUint(dst, id, 10)
	dst = append(dst, '[')
	dst = append(dst, data...)
	return append(dst, ']')
}

// AppendConnect appends the answer to a CONNECT packet. A client that is given a
// pid may come back with it, and with an offset:
//
//	40{"sid":"…","pid":"…"}   40{"sid":"…"} if pid is ""
func AppendConnect(dst []byte, sid, pid string) []byte {
	dst = append(dst, `40{"sid":`...)
	dst = appendString(dst, sid)
	if pid != "" {
		dst = append(dst, `,"pid":`...)
		dst = appendString(dst, pid)
	}
	return append(dst, '}')
}

// AppendConnectError appends the refusal of a CONNECT packet, with that packet's
// namespace; data is JSON and is not checked:
//
//	44{"message":"…","data":<data>}   44{"message":"…"} if data is empty
//	44/ns,{"message":"…"}             of another namespace than "/" and ""
func AppendConnectError(dst []byte, namespace, message string, data []byte) []byte {
	dst = append(dst, `44`...)
	if namespace != mainNamespace && namespace != "" {
		dst = append(dst, namespace...)
		dst = append(dst, ',')
	}
	dst = append(dst, `{"message":`...)
	dst = appendString(dst, message)
	if len(data) > 0 {
		dst = append(dst, `,"data":`...)
		dst = append(dst, data...)
	}
	return append(dst, '}')
}
