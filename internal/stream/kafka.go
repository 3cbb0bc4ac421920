package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/godwit-mta/godwit/internal/units"
)

// KafkaOptions are what a configuration file can set of a log that Kafka brokers keep.
type KafkaOptions struct {
	Brokers      []string `toml:"brokers" doc:"Addresses host:port of some brokers; the others are found through them."`
	Prefix       string   `toml:"prefix" doc:"Prefix of the names of topics and groups, so that several installations can share brokers."`
	ClientID     string   `toml:"client_id" doc:"Name that brokers show for this process."`
	Replicas     int      `toml:"replicas" doc:"Number of replicas that topics are made with; 0 is the brokers' default."`
	InSync       int      `toml:"min_insync_replicas" doc:"Number of replicas that must have a record before it counts as durable, for topics that are made; 0 is the brokers' default. With 3 replicas set 2."`
	TLS          bool     `toml:"tls" doc:"Connect with TLS, verifying the brokers by the system's certificates."`
	User         string   `toml:"user" doc:"User for SCRAM-SHA-512; empty for none."`
	PasswordFile string   `toml:"password_file" doc:"File with the password of user."`
	// Password is read from PasswordFile if it is empty.
	Password  string         `toml:"-"`
	Session   units.Duration `toml:"session_timeout" doc:"Time without a sign of life after which the brokers give this process's partitions to others."`
	Rebalance units.Duration `toml:"rebalance_timeout" doc:"Time that a process has to finish its work on a partition that is taken away."`
}

// DefaultKafkaOptions returns no brokers, the prefix "godwit.", sessions of 20 seconds and 60 seconds to give up a partition.
func DefaultKafkaOptions() KafkaOptions {
	return KafkaOptions{
		Prefix: "godwit.", ClientID: "godwit",
		Session: units.Duration(20 * time.Second), Rebalance: units.Duration(time.Minute),
	}
}

// withDefaults fills what cannot be empty.
func (o KafkaOptions) withDefaults() KafkaOptions {
	d := DefaultKafkaOptions()
	if o.ClientID == "" {
		o.ClientID = d.ClientID
	}
	if o.Session == 0 {
		o.Session = d.Session
	}
	if o.Rebalance == 0 {
		o.Rebalance = d.Rebalance
	}
	return o
}

// Validate returns an error that begins with the key at fault.
func (o KafkaOptions) Validate() error {
	switch {
	case len(o.Brokers) == 0:
		return errors.New("brokers: must name at least one")
	case o.Replicas < 0 || o.Replicas > 1000:
		return errors.New("replicas: must be between 0 and 1000")
	case o.InSync < 0 || o.Replicas > 0 && o.InSync > o.Replicas:
		return errors.New("min_insync_replicas: must not exceed replicas")
	case o.Password+o.PasswordFile != "" && o.User == "":
		return errors.New("user: must be set with password_file")
	case o.Session.D() < time.Second:
		return errors.New("session_timeout: must be at least 1s")
	case o.Rebalance.D() < time.Second:
		return errors.New("rebalance_timeout: must be at least 1s")
	}
	return nil
}

// Kafka is a Log that Kafka brokers keep, for several processes. An offset is the broker's.
//
// Durable means acknowledged by all replicas in sync. Retention is the topics' own configuration at the brokers: Hold does
// not keep them from dropping records. It is a committed offset that operators see as the lag of a group,
// and that expires with the brokers' offsets.retention.minutes unless Hold is called again before. Retention
// must be set so that it covers the oldest snapshot; where it did not, Read returns ErrTooOld.
type Kafka struct {
	o      KafkaOptions
	d      Deps
	client *kgo.Client // produces, and asks
	admin  *kadm.Client
	done   chan struct{}
	runs   sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	topics  map[string]*kafkaTopic
	readers map[*kafkaReader]bool
}

var _ Log = (*Kafka)(nil)

// NewKafka returns a log that the brokers keep. It connects when it is used.
func NewKafka(o KafkaOptions, d Deps) (*Kafka, error) {
	o, d = o.withDefaults(), d.withDefaults()
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("stream: kafka: %w", err)
	}
	if o.PasswordFile != "" && o.Password == "" {
		b, err := os.ReadFile(o.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("stream: kafka: password_file: %w", err)
		}
		o.Password = strings.TrimSpace(string(b))
	}
	k := &Kafka{o: o, d: d, done: make(chan struct{}), topics: map[string]*kafkaTopic{}, readers: map[*kafkaReader]bool{}}
	var err error
	k.client, err = kgo.NewClient(k.options(
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(0), kgo.RecordPartitioner(kgo.ManualPartitioner()),
	)...)
	if err != nil {
		return nil, fmt.Errorf("stream: kafka: %w", err)
	}
	k.admin = kadm.NewClient(k.client)
	return k, nil
}

// options are those of every client.
func (k *Kafka) options(more ...kgo.Opt) []kgo.Opt {
	// What a client knows of topics and leaders it may ask again soon: one that was just made or has moved is then found at once.
	const askAgain = 250 * time.Millisecond
	opts := []kgo.Opt{
		kgo.SeedBrokers(k.o.Brokers...), kgo.ClientID(k.o.ClientID), kgo.MetadataMinAge(askAgain),
		kgo.DisableClientMetrics(), kgo.WithLogger(kafkaLog{k.d.Logger}),
	}
	if k.o.TLS {
		opts = append(opts, kgo.DialTLSConfig(&tls.Config{MinVersion: tls.VersionTLS12}))
	}
	if k.o.User != "" {
		opts = append(opts, kgo.SASL(scram.Auth{User: k.o.User, Pass: k.o.Password}.AsSha512Mechanism()))
	}
	return append(opts, more...)
}

// Topic implements Log.
func (k *Kafka) Topic(ctx context.Context, name string, partitions int32) (Topic, error) {
	if err := checkTopic(name, partitions); err != nil {
		return nil, err
	}
	k.mu.Lock()
	t, closed := k.topics[name], k.closed
	k.mu.Unlock()
	switch {
	case closed:
		return nil, ErrClosed
	case t != nil && t.partitions != partitions:
		return nil, fmt.Errorf("stream: topic %s has %d partitions, not %d", name, t.partitions, partitions)
	case t != nil:
		return t, nil
	}
	if err := k.ensure(ctx, k.o.Prefix+name, partitions); err != nil {
		return nil, fmt.Errorf("stream: topic %s: %w", name, err)
	}
	return k.adopt(name, partitions)
}

// adopt makes the topic's handle, one for each name.
func (k *Kafka) adopt(name string, partitions int32) (*kafkaTopic, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil, ErrClosed
	}
	if t := k.topics[name]; t != nil {
		return t, nil
	}
	m, err := newAppendMetrics(name, k.d.Registerer)
	if err != nil {
		return nil, fmt.Errorf("stream: topic %s: %w", name, err)
	}
	t := &kafkaTopic{k: k, name: name, full: k.o.Prefix + name, partitions: partitions, metrics: m}
	k.topics[name] = t
	return t, nil
}

// makeTries bounds how often a topic that was just made is looked for.
const makeTries = 50

// ensure makes a topic unless it is there, and checks the number of its partitions.
func (k *Kafka) ensure(ctx context.Context, full string, partitions int32) error {
	for try := range makeTries {
		found, err := k.admin.ListTopics(ctx, full)
		if err != nil {
			return err
		}
		detail := found[full]
		switch {
		case detail.Err == nil && len(detail.Partitions) == int(partitions):
			return nil
		case detail.Err == nil && len(detail.Partitions) > 0:
			return fmt.Errorf("it has %d partitions, not %d; their number cannot be changed", len(detail.Partitions), partitions)
		case detail.Err != nil && !errors.Is(detail.Err, kerr.UnknownTopicOrPartition) && !kerr.IsRetriable(detail.Err):
			return detail.Err
		}
		if try == 0 {
			if err := k.make(ctx, full, partitions); err != nil {
				return err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return errors.New("it was made and is not there")
}

func (k *Kafka) make(ctx context.Context, full string, partitions int32) error {
	replicas := int16(-1)
	if k.o.Replicas > 0 {
		replicas = int16(k.o.Replicas)
	}
	config := map[string]*string{}
	if k.o.InSync > 0 {
		n := fmt.Sprint(k.o.InSync)
		config["min.insync.replicas"] = &n
	}
	_, err := k.admin.CreateTopic(ctx, partitions, replicas, config, full)
	if errors.Is(err, kerr.TopicAlreadyExists) {
		return nil
	}
	return err
}

// holder is the group whose committed offsets are what a group holds of a topic.
func (k *Kafka) holder(group string, t Topic) string {
	return k.o.Prefix + "hold." + group + "." + t.Name()
}

// Hold implements Log, as far as Kafka can: see there.
func (k *Kafka) Hold(ctx context.Context, group string, t Topic, partition int32, offset int64) error {
	if err := checkPartition(t, partition); err != nil {
		return err
	}
	var held kadm.Offsets
	held.AddOffset(k.o.Prefix+t.Name(), partition, offset, -1)
	if err := k.admin.CommitAllOffsets(ctx, k.holder(group, t), held); err != nil {
		return fmt.Errorf("stream: topic %s: hold: %w", t.Name(), err)
	}
	return nil
}

// Release implements Log.
func (k *Kafka) Release(ctx context.Context, group string, t Topic) error {
	_, err := k.admin.DeleteGroup(ctx, k.holder(group, t))
	if err == nil || errors.Is(err, kerr.GroupIDNotFound) {
		return nil
	}
	return fmt.Errorf("stream: topic %s: release: %w", t.Name(), err)
}

// Close implements Log. It ends every Run and waits for it.
func (k *Kafka) Close() error {
	k.mu.Lock()
	already := k.closed
	k.closed = true
	readers := make([]*kafkaReader, 0, len(k.readers))
	for r := range k.readers {
		readers = append(readers, r)
	}
	k.mu.Unlock()
	if already {
		return nil
	}
	close(k.done)
	k.runs.Wait()
	for _, r := range readers {
		_ = r.Close()
	}
	k.client.Close()
	for _, t := range k.topics {
		t.metrics.set.Unregister()
	}
	return nil
}

// kafkaLog passes what the client library reports on.
type kafkaLog struct{ log *slog.Logger }

// Level implements kgo.Logger.
func (kafkaLog) Level() kgo.LogLevel { return kgo.LogLevelWarn }

// Log implements kgo.Logger.
func (l kafkaLog) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	if level == kgo.LogLevelError {
		l.log.Error("kafka: "+msg, keyvals...)
		return
	}
	l.log.Warn("kafka: "+msg, keyvals...)
}
