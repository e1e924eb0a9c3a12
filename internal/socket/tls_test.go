package socket

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"strings"
	"testing"
)

// overTLS says what worlds are usually like.
var overTLS bool

// A connection over TLS is none of the kernel's: it is read without a buffer of ours,
// and written by goroutines that may wait. Whatever depends on that is tested both ways.
func TestOverTLS(t *testing.T) {
	overTLS = true
	defer func() { overTLS = false }()
	for name, test := range map[string]func(*testing.T){
		"the first frame comes with the answer":  TestReadyComesFirstAndSaysThePosition,
		"who speaks before the answer is heard":  TestWhatIsSaidWithTheRequestIsHeard,
		"bursts":                                 TestAClientThatTakesAPartOfWhatHasGatheredGetsTheRest,
		"slow and closed":                        TestASlowClientDoesNotDelayItsNeighboursAndIsClosedInTheEnd,
		"slow and then not":                      TestASlowClientThatReadsAfterAllGetsEverything,
		"never reads":                            TestAClientThatNeverReadsIsCutOff,
		"floods":                                 TestAClientThatFloodsAndNeverReadsIsCutOff,
		"no pong":                                TestAClientThatDoesNotAnswerPingsIsClosed,
		"pongs":                                  TestAClientThatAnswersPingsStays,
		"goes":                                   TestAClientThatGoesLeavesNothing,
		"drain":                                  TestDrainClosesEverySocketWithAHint,
		"before a drain":                         TestWhatWasSaidBeforeADrainIsHeard,
		"too long":                               TestAFrameThatIsTooLongIsRefusedAndTheSessionGoesOn,
		"in pieces":                              TestAFrameInPiecesCountsAsOne,
		"endless":                                TestAnEndlessFrameEndsTheSession,
		"no answer to a close":                   TestAClientThatDoesNotAnswerACloseIsCutOff,
		"nonsense":                               TestAFrameThatIsNoneOfTheProtocolEndsTheSession,
		"what waits when the transport changes":  TestWhatWaitsWhenTheTransportChangesComesOverTheNewOne,
		"a WebSocket that dies before it counts": TestAWebSocketThatDiesBeforeTheChangeLeavesThePollingAsItWas,
		"tunnel":                                 TestATunnelTellsWhyTheSessionHasEnded,
		"slow engine":                            TestASlowEngineDoesNotDelayItsNeighboursAndGetsEverythingInTheEnd,
		"slow engine that stays behind":          TestASlowEngineThatStaysBehindIsEnded,
		"requests to all processes":              TestEveryRequestMayGoToAnotherProcess,
	} {
		t.Run(name, test)
	}
}

// trustProcesses lets clients connect over TLS.
func (w *world) trustProcesses(transport *http.Transport) {
	roots := x509.NewCertPool()
	for _, p := range w.processes {
		if cert := p.http.Certificate(); cert != nil {
			roots.AddCert(cert)
		}
	}
	transport.TLSClientConfig = &tls.Config{RootCAs: roots}
}

// dialProcess connects a client that speaks HTTP by hand.
func (w *world) dialProcess(process int) (net.Conn, error) {
	scheme, address, _ := strings.Cut(w.processes[process].url, "://")
	if scheme == "https" {
		return tls.Dial("tcp", address, w.http.Transport.(*http.Transport).TLSClientConfig)
	}
	return net.Dial("tcp", address)
}

func TestWhatIsSaidWithTheRequestIsHeard(t *testing.T) {
	w := start(t)
	frame := `{"event":"customer_message","id":"c1","data":` + customerSays + `}`
	frame = header(text|final, uint64(len(frame))) + frame
	c := w.dialRawTo("/ws?"+customer, frame, frame)
	c.wantText(`{"event":"ready"`)
	c.wantText(`{"event":"ack","id":"c1","seq":101}`)
	c.wantText(`{"event":"ack","id":"c1","seq":102}`)
}
