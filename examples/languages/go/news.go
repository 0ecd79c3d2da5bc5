package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

const (
	lease          = 15 * time.Second
	reconnectAfter = time.Second
)

// News knows when to look again for what a run does. Looking is the truth; being told saves the
// waiting.
//
// One connection listens for the whole process, and says so in the database: while nobody does,
// workers notify nobody. The protocol is in docs/languages.md.
type News struct {
	id      pgtype.UUID
	stop    context.CancelFunc
	stopped sync.WaitGroup

	mu      sync.Mutex
	waiting map[string]chan struct{} // by run; closed when there is news of it
}

// NewNews listens until Close. Whoever waits looks every lookEvery, too, in case a notification is
// lost with its sender; 250 ms behind PgBouncer.
func NewNews(config *pgx.ConnConfig, lookEvery time.Duration) *News {
	ctx, stop := context.WithCancel(context.Background())
	n := &News{stop: stop, waiting: map[string]chan struct{}{}}
	n.id.Valid = true
	rand.Read(n.id.Bytes[:])
	n.stopped.Go(func() { n.keepListening(ctx, config) })
	n.stopped.Go(func() {
		ticks := time.NewTicker(lookEvery)
		defer ticks.Stop()
		for {
			select {
			case <-ticks.C:
				n.tellAll()
			case <-ctx.Done():
				return
			}
		}
	})
	return n
}

// Close stops listening.
func (n *News) Close() {
	n.stop()
	n.stopped.Wait()
}

// Until looks for something of a run until it is there (not nil), or ctx ends.
func Until[T any](ctx context.Context, n *News, run string, look func() (*T, error)) (T, error) {
	for {
		told := n.told(run) // before the look, or what comes in between is missed
		if found, err := look(); err != nil {
			return *new(T), err
		} else if found != nil {
			return *found, nil
		}
		select {
		case <-told:
		case <-ctx.Done():
			return *new(T), fmt.Errorf("waiting for run %s: %w", run, ctx.Err())
		}
	}
}

func (n *News) told(run string) <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.waiting[run] == nil {
		n.waiting[run] = make(chan struct{})
	}
	return n.waiting[run]
}

func (n *News) tell(runs ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, run := range runs {
		if told, ok := n.waiting[run]; ok {
			close(told)
			delete(n.waiting, run)
		}
	}
}

func (n *News) tellAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, told := range n.waiting {
		close(told)
	}
	clear(n.waiting)
}

func (n *News) keepListening(ctx context.Context, config *pgx.ConnConfig) {
	for ctx.Err() == nil {
		if err := n.listen(ctx, config); err != nil && ctx.Err() == nil {
			log.Print("looking only, not listening: ", err)
		}
		select {
		case <-time.After(reconnectAfter):
		case <-ctx.Done():
		}
	}
}

// listen returns when the connection is lost, or ctx ends.
func (n *News) listen(ctx context.Context, config *pgx.ConnConfig) error {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() {
		ending, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		conn.Exec(ending, "select rowlock.unlisten($1)", n.id)
		conn.Close(ending)
	}()

	if _, err := conn.Exec(ctx, "listen rowlock_news"); err != nil {
		return err
	}
	if err := n.renew(ctx, conn); err != nil {
		return err
	}
	n.tellAll() // of what came before nobody told
	renewal := time.Now().Add(lease / 3)
	for {
		waiting, cancel := context.WithDeadline(ctx, renewal)
		news, err := conn.WaitForNotification(waiting)
		cancel()
		switch {
		case err == nil:
			n.tell(strings.Split(news.Payload, ",")...)
		case ctx.Err() == nil && pgconn.Timeout(err):
			if err := n.renew(ctx, conn); err != nil {
				return err
			}
			renewal = time.Now().Add(lease / 3)
		default:
			return err
		}
	}
}

func (n *News) renew(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, "select rowlock.listen($1, $2)", n.id, lease)
	return err
}
