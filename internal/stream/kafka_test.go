package stream_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/internal/stream/streamtest"
	"github.com/godwit-mta/godwit/internal/units"
)

// kafkaOptions are those of a fast group at some brokers.
func kafkaOptions(t *testing.T, brokers []string) stream.KafkaOptions {
	o := stream.DefaultKafkaOptions()
	o.Brokers = brokers
	o.Prefix = fmt.Sprintf("test.%d.%s.", time.Now().UnixNano(), strings.NewReplacer("/", "-", " ", "-").Replace(t.Name()))
	o.Session = units.Duration(6 * time.Second)
	return o
}

// kafkaKit is a log at some brokers.
func kafkaKit(t *testing.T, brokers []string) streamtest.Kit {
	o := kafkaOptions(t, brokers)
	open := func() (stream.Log, error) { return stream.NewKafka(o, stream.Deps{}) }
	return streamtest.Kit{
		Open: open, Second: open, Reopens: true,
		Drop: func(_ stream.Log, topic stream.Topic) error {
			end, err := topic.End(t.Context(), 0)
			if err != nil {
				return err
			}
			return dropBefore(t.Context(), brokers, o.Prefix+topic.Name(), end/2)
		},
	}
}

// dropBefore does what a broker's retention does.
func dropBefore(ctx context.Context, brokers []string, topic string, offset int64) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return err
	}
	defer client.Close()
	var o kadm.Offsets
	o.AddOffset(topic, 0, offset, -1)
	_, err = kadm.NewClient(client).DeleteRecords(ctx, o)
	return err
}

// fakeBrokers starts brokers in this process.
func fakeBrokers(t *testing.T) []string {
	_, brokers := fakeCluster(t)
	return brokers
}

func fakeCluster(t *testing.T) (*kfake.Cluster, []string) {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(2), kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"}), kfake.GroupMinSessionTimeout(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return cluster, cluster.ListenAddrs()
}

func TestKafka(t *testing.T) {
	t.Run("fake", func(t *testing.T) {
		streamtest.Test(t, func(t *testing.T) streamtest.Kit { return kafkaKit(t, fakeBrokers(t)) })
	})
	t.Run("real", func(t *testing.T) {
		brokers := os.Getenv("GODWIT_TEST_KAFKA")
		if brokers == "" {
			t.Skip("GODWIT_TEST_KAFKA names no brokers")
		}
		streamtest.Test(t, func(t *testing.T) streamtest.Kit { return kafkaKit(t, strings.Split(brokers, ",")) })
	})
}

// TestKafkaHoldIsACommittedOffset: what a group holds is there for operators, until it is released.
func TestKafkaHoldIsACommittedOffset(t *testing.T) {
	brokers := fakeBrokers(t)
	o := kafkaOptions(t, brokers)
	k, topic := openKafka(t, o)
	if _, err := topic.Append(t.Context(), []stream.Message{{Partition: 1, Data: []byte("a")}}); err != nil {
		t.Fatal(err)
	}
	if err := k.Hold(t.Context(), "customer", topic, 1, 1); err != nil {
		t.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	held := func() int64 {
		offsets, err := kadm.NewClient(client).FetchOffsets(t.Context(), o.Prefix+"hold.customer.things")
		if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
			t.Fatal(err)
		}
		at, ok := offsets.Lookup(o.Prefix+"things", 1)
		if !ok {
			return -1
		}
		return at.At
	}
	if at := held(); at != 1 {
		t.Errorf("held at %d", at)
	}
	for range 2 { // releasing what is not held is no error
		if err := k.Release(t.Context(), "customer", topic); err != nil {
			t.Fatal(err)
		}
	}
	if at := held(); at != -1 {
		t.Errorf("held at %d after it was released", at)
	}
}

func openKafka(t *testing.T, o stream.KafkaOptions) (*stream.Kafka, stream.Topic) {
	t.Helper()
	k, err := stream.NewKafka(o, stream.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	topic, err := k.Topic(t.Context(), "things", 2)
	if err != nil {
		t.Fatal(err)
	}
	return k, topic
}

// TestKafkaDroppedWhileReading: a reader that the brokers' retention overtakes is told so; one ahead of the log too.
func TestKafkaDroppedWhileReading(t *testing.T) {
	brokers := fakeBrokers(t)
	o := kafkaOptions(t, brokers)
	_, topic := openKafka(t, o)
	msgs := make([]stream.Message, 100)
	offsets, err := topic.Append(t.Context(), msgs)
	if err != nil {
		t.Fatal(err)
	}
	end := offsets[99] + 1
	r, err := topic.Read(t.Context(), 0, end)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if recs, err := r.Next(short, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v, %v", recs, err)
	}
	ahead, err := topic.Read(t.Context(), 0, end+50)
	if err != nil {
		t.Fatal(err)
	}
	defer ahead.Close()
	if _, err := ahead.Next(t.Context(), 1); !errors.Is(err, stream.ErrLost) {
		t.Errorf("ahead of the log: %v", err)
	}
	if err := dropBefore(t.Context(), brokers, o.Prefix+"things", 50); err != nil {
		t.Fatal(err)
	}
	if _, err := topic.Read(t.Context(), 0, 49); !errors.Is(err, stream.ErrTooOld) {
		t.Errorf("behind the log: %v", err)
	}
}

// TestKafkaStalledProcess: a process that gives no sign of life for longer than its session cannot append for its
// partitions when it goes on, though nobody has told it yet that it lost them.
func TestKafkaStalledProcess(t *testing.T) {
	cluster, brokers := fakeCluster(t)
	o := kafkaOptions(t, brokers)
	o.Session = units.Duration(time.Second)
	k, topic := openKafka(t, o)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	result := make(chan error, 2)
	begun := make(chan bool, 2)
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = k.Run(ctx, "group", topic, func(ctx context.Context, a stream.Assignment) error {
			begun <- true
			for {
				if _, err := topic.Append(ctx, []stream.Message{{Partition: a.Partition}}); err != nil {
					result <- err
					return nil
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	})
	<-begun
	// Heartbeats are not answered any more, as if this process had stopped.
	answer := make(chan bool)
	cluster.ControlKey(kmsg.Heartbeat.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		cluster.SleepControl(func() { <-answer })
		return nil, nil, false
	})
	stalled := time.Now()
	select {
	case err := <-result:
		if !errors.Is(err, stream.ErrFenced) {
			t.Errorf("got %v", err)
		}
		if after := time.Since(stalled); after < o.Session.D()/2 || after > 6*o.Session.D() {
			t.Errorf("after %v, with sessions of %v", after, o.Session)
		}
	case <-time.After(20 * time.Second):
		t.Error("it goes on appending")
	}
	close(answer)
	cancel()
	wg.Wait()
}
