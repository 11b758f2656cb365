// gosdk-client is LiveKit's Go SDK, unmodified, as a test drives it: two participants meet in a room, one publishes an
// Opus track, the other must receive the very payloads that were sent, in order, and a data packet each way.
//
// It reads LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET, and takes the room's name as its argument. It exits with
// 0 and one JSON line of what it saw, or with 1 and the reason. Time limits here only end a hanging run.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/livekit/protocol/livekit"
	protoLogger "github.com/livekit/protocol/logger"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/pion/webrtc/v4"
	"github.com/pion/webrtc/v4/pkg/media"
)

const (
	patience     = 30 * time.Second
	frame        = 20 * time.Millisecond
	wanted       = 100 // received packets, two seconds of audio
	dataTopic    = "test"
	dataQuestion = "question"
	dataAnswer   = "answer"
)

// report is what the test prints.
type report struct {
	SinglePC       bool    `json:"single_pc"`
	Codec          string  `json:"codec"`
	Received       int     `json:"received"`
	Missing        int     `json:"missing"`
	FirstAudioMs   float64 `json:"first_audio_ms"` // from the begin of the subscriber's join
	UnpublishHeard bool    `json:"unpublish_heard"`
	LeaveHeard     bool    `json:"leave_heard"`
}

func main() {
	singlePC := flag.Bool("single-pc", false, "one peer connection for both directions")
	flag.Parse()
	lksdk.SetLogger(protoLogger.GetDiscardLogger())
	r := report{SinglePC: *singlePC}
	if err := meet(flag.Arg(0), &r); err != nil {
		fmt.Fprintln(os.Stderr, "gosdk-client:", err)
		os.Exit(1)
	}
	line, err := json.Marshal(r)
	if err != nil {
		fmt.Fprintln(os.Stderr, "gosdk-client:", err)
		os.Exit(1)
	}
	fmt.Println(string(line))
}

func meet(roomName string, r *report) error {
	answered := make(chan string, 1)
	speaker, err := join(roomName, "speaker", r.SinglePC, &lksdk.RoomCallback{ParticipantCallback: lksdk.ParticipantCallback{
		OnDataPacket: func(data lksdk.DataPacket, _ lksdk.DataReceiveParams) { pass(answered, data) },
	}})
	if err != nil {
		return err
	}
	defer speaker.Disconnect()

	asked := make(chan string, 1)
	tracks := make(chan *webrtc.TrackRemote, 1)
	unpublished, left := make(chan struct{}), make(chan struct{})
	joinStarted := time.Now()
	listener, err := join(roomName, "listener", r.SinglePC, &lksdk.RoomCallback{
		ParticipantCallback: lksdk.ParticipantCallback{
			OnTrackSubscribed:  func(t *webrtc.TrackRemote, _ *lksdk.RemoteTrackPublication, _ *lksdk.RemoteParticipant) { tracks <- t },
			OnTrackUnpublished: func(*lksdk.RemoteTrackPublication, *lksdk.RemoteParticipant) { close(unpublished) },
			OnDataPacket:       func(data lksdk.DataPacket, _ lksdk.DataReceiveParams) { pass(asked, data) },
		},
		OnParticipantDisconnected: func(*lksdk.RemoteParticipant) { close(left) },
	})
	if err != nil {
		return err
	}
	defer listener.Disconnect()

	publication, stop, err := publish(speaker)
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	defer stop()
	track, err := within(tracks, "the published track to be subscribed")
	if err != nil {
		return err
	}
	r.Codec = track.Codec().MimeType
	if err := compare(track, joinStarted, r); err != nil {
		return err
	}

	if err := exchange(speaker, listener, asked, answered); err != nil {
		return err
	}
	if err := speaker.LocalParticipant.UnpublishTrack(publication.SID()); err != nil {
		return fmt.Errorf("unpublish: %w", err)
	}
	if _, err := within(unpublished, "the track to be unpublished"); err != nil {
		return err
	}
	r.UnpublishHeard = true
	speaker.Disconnect()
	if _, err := within(left, "the speaker's leaving"); err != nil {
		return err
	}
	r.LeaveHeard = true
	return nil
}

func join(room, identity string, singlePC bool, callback *lksdk.RoomCallback) (*lksdk.Room, error) {
	options := []lksdk.ConnectOption{lksdk.WithDisableRegionDiscovery(), lksdk.WithConnectTimeout(patience)}
	if singlePC {
		options = append(options, lksdk.WithSinglePeerConnection())
	}
	joined, err := lksdk.ConnectToRoom(os.Getenv("LIVEKIT_URL"), lksdk.ConnectInfo{
		APIKey: os.Getenv("LIVEKIT_API_KEY"), APISecret: os.Getenv("LIVEKIT_API_SECRET"),
		RoomName: room, ParticipantIdentity: identity,
	}, callback, options...)
	if err != nil {
		return nil, fmt.Errorf("%s cannot join: %w", identity, err)
	}
	return joined, nil
}

// publish sends one Opus packet every 20 ms until stop is called.
func publish(room *lksdk.Room) (publication *lksdk.LocalTrackPublication, stop func(), err error) {
	track, err := lksdk.NewLocalTrack(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2})
	if err != nil {
		return nil, nil, err
	}
	publication, err = room.LocalParticipant.PublishTrack(track, &lksdk.TrackPublicationOptions{
		Name: "numbers", Source: livekit.TrackSource_MICROPHONE, DisableDTX: true,
	})
	if err != nil {
		return nil, nil, err
	}
	done := make(chan struct{})
	go func() {
		ticks := time.NewTicker(frame)
		defer ticks.Stop()
		for number := uint32(0); ; number++ {
			select {
			case <-done:
				return
			case <-ticks.C:
				_ = track.WriteSample(media.Sample{Data: payload(number), Duration: frame}, nil)
			}
		}
	}()
	return publication, func() { close(done) }, nil
}

// payload is a packet that an Opus decoder takes (TOC: CELT, 20 ms, mono, one frame) with a number in it.
func payload(number uint32) []byte {
	p := make([]byte, 40)
	p[0] = 31 << 3
	for i := range p[1:] {
		p[1+i] = byte(number>>(8*(i%4))) ^ byte(37*i)
	}
	return p
}

func numberOf(p []byte) (uint32, bool) {
	if len(p) != 40 {
		return 0, false
	}
	var number uint32
	for i := range 4 {
		number |= uint32(p[1+i]^byte(37*i)) << (8 * i)
	}
	for i, b := range payload(number) {
		if p[i] != b {
			return 0, false
		}
	}
	return number, true
}

// compare reads the track until enough packets came; each must be one that was sent, in the order of the sequence
// numbers. Over loopback nothing may be missing once the first packet came.
func compare(track *webrtc.TrackRemote, joinStarted time.Time, r *report) error {
	if err := track.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	var previous uint32
	var gaps []string
	for r.Received < wanted {
		packet, _, err := track.ReadRTP()
		if err != nil {
			return fmt.Errorf("after %d packets: %w", r.Received, err)
		}
		if len(packet.Payload) == 0 {
			continue // a server may open a track with padding
		}
		number, ok := numberOf(packet.Payload)
		if !ok {
			return fmt.Errorf("packet %d arrived changed: % x", packet.SequenceNumber, packet.Payload)
		}
		if r.Received == 0 {
			r.FirstAudioMs = float64(time.Since(joinStarted).Microseconds()) / 1000
		} else if number <= previous {
			return fmt.Errorf("number %d came after number %d", number, previous)
		} else if missing := int(number - previous - 1); missing > 0 {
			r.Missing += missing
			gaps = append(gaps, fmt.Sprintf("%d after packet %d", missing, r.Received))
		}
		previous = number
		r.Received++
	}
	if r.Missing > 0 {
		return fmt.Errorf("%d of %d packets are missing: %s", r.Missing, r.Received+r.Missing, strings.Join(gaps, ", "))
	}
	return nil
}

func exchange(speaker, listener *lksdk.Room, asked, answered <-chan string) error {
	for _, step := range []struct {
		from *lksdk.Room
		text string
		got  <-chan string
	}{{speaker, dataQuestion, asked}, {listener, dataAnswer, answered}} {
		err := step.from.LocalParticipant.PublishDataPacket(lksdk.UserData([]byte(step.text)),
			lksdk.WithDataPublishReliable(true), lksdk.WithDataPublishTopic(dataTopic))
		if err != nil {
			return fmt.Errorf("send %q: %w", step.text, err)
		}
		got, err := within(step.got, "the data packet "+step.text)
		if err != nil {
			return err
		}
		if got != step.text {
			return fmt.Errorf("data %q arrived as %q", step.text, got)
		}
	}
	return nil
}

func pass(to chan<- string, data lksdk.DataPacket) {
	if user, ok := data.(*lksdk.UserDataPacket); ok && user.Topic == dataTopic {
		to <- string(user.Payload)
	}
}

// within waits for a value, or for the channel to be closed.
func within[T any](from <-chan T, what string) (T, error) {
	select {
	case value := <-from:
		return value, nil
	case <-time.After(patience):
		var none T
		return none, fmt.Errorf("waited %v in vain for %s", patience, what)
	}
}
