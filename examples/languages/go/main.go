// Orders in a shop whose workflow is written in Python, in ../shop.py: start, send, wait, list,
// cancel.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Line and Order are what the workflow takes; jsonb holds them as encoding/json writes them.
type Line struct {
	SKU    string `json:"sku"`
	Pieces int    `json:"pieces"`
}

type Order struct {
	Number    int    `json:"number"`
	Customer  string `json:"customer"`
	DeliverOn string `json:"deliver_on"` // a date: "2026-12-24"
	Lines     []Line `json:"lines"`
}

// Approval is the message it waits for.
type Approval struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// Delivery is what it returns.
type Delivery struct {
	Parcel     string `json:"parcel"`
	Total      string `json:"total"` // a Decimal is text in JSON: a number would lose digits
	ApprovedBy string `json:"approved_by"`
}

type Placed struct {
	Number int
	Run    string
}

type Outcome struct {
	Status string
	Output *Delivery
	Error  *string
}

type Failed struct {
	Run, Key, Error string
}

type Shop struct {
	pool *pgxpool.Pool
	news *News
}

// Place writes a row of ours and starts a run in one transaction: both, or neither.
func (s *Shop) Place(ctx context.Context, order Order, commit bool) (placed Placed, err error) {
	tx, err := s.pool.Begin(ctx)
	if err != nil {
		return placed, err
	}
	defer tx.Rollback(ctx) // after a commit it does nothing

	err = tx.QueryRow(ctx, "insert into shop_order (customer) values ($1) returning number",
		order.Customer).Scan(&placed.Number)
	if err != nil {
		return placed, err
	}
	order.Number = placed.Number
	err = tx.QueryRow(ctx,
		`select rowlock.start('fulfil', app => 'shop', key => $1, input => $2, attributes => $3)`,
		fmt.Sprintf("order-%d", order.Number),
		map[string]any{"order": order},
		map[string]any{"customer": order.Customer}).Scan(&placed.Run)
	if err != nil {
		return placed, err
	}
	if !commit {
		fmt.Printf("order-%d: rolled back\n", placed.Number)
		return placed, tx.Rollback(ctx)
	}
	if err := tx.Commit(ctx); err != nil {
		return placed, err
	}
	fmt.Printf("order-%d: placed\n", placed.Number)
	return placed, nil
}

// Count says how many rows of ours and how many runs there are of an order.
func (s *Shop) Count(ctx context.Context, placed Placed) (orders, runs int, err error) {
	err = s.pool.QueryRow(ctx,
		`select (select count(*) from shop_order where number = $1),
		        (select count(*) from rowlock.runs where run_id = $2)`,
		placed.Number, placed.Run).Scan(&orders, &runs)
	return orders, runs, err
}

// QuotedTotal is what the workflow shows in its event "quote", once it does.
func (s *Shop) QuotedTotal(ctx context.Context, run string) (string, error) {
	return Until(ctx, s.news, run, func() (total *string, err error) {
		err = s.pool.QueryRow(ctx,
			"select rowlock.get_event($1, 'quote') ->> 'total'", run).Scan(&total)
		return total, err
	})
}

// Approve sends a message. Its key makes it safe to send again when it is not known whether it was
// sent.
func (s *Shop) Approve(ctx context.Context, run, by string) error {
	_, err := s.pool.Exec(ctx, "select rowlock.send($1, 'approval', $2, key => $3)",
		run, Approval{by, time.Now()}, "approved by "+by)
	return err
}

// Outcome waits for the end of a run.
func (s *Shop) Outcome(ctx context.Context, run string) (Outcome, error) {
	return Until(ctx, s.news, run, func() (*Outcome, error) {
		rows, _ := s.pool.Query(ctx,
			`select status, output, error ->> 'message'
			   from rowlock.runs
			  where run_id = $1 and finished_at is not null`, run)
		outcome, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByPos[Outcome])
		if errors.Is(err, pgx.ErrNoRows) {
			return nil, nil
		}
		return outcome, err
	})
}

// FailedRuns gives a page of them, from the newest: ids are in the order of time, and any page is
// as cheap as the first.
func (s *Shop) FailedRuns(ctx context.Context, before string, pageSize int) ([]Failed, error) {
	rows, _ := s.pool.Query(ctx,
		`select run_id, key, error ->> 'message'
		   from rowlock.runs
		  where app = 'shop' and status = 'failed' and run_id < $1
		  order by run_id desc
		  limit $2`,
		cmp.Or(before, "ffffffff-ffff-ffff-ffff-ffffffffffff"), pageSize)
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Failed])
}

func (s *Shop) Cancel(ctx context.Context, run, reason string) error {
	_, err := s.pool.Exec(ctx, "select rowlock.cancel($1, reason => $2)", run, reason)
	return err
}

var (
	cups   = Order{Customer: "Ada", DeliverOn: "2026-12-24", Lines: []Line{{"cup", 3}}}
	teapot = Order{Customer: "Ada", DeliverOn: "2026-12-24", Lines: []Line{{"teapot", 1}}}
)

// changeMind rolls back: neither the order nor its run remains.
func changeMind(ctx context.Context, s *Shop) error {
	placed, err := s.Place(ctx, cups, false)
	if err != nil {
		return err
	}
	orders, runs, err := s.Count(ctx, placed)
	if err != nil {
		return err
	}
	fmt.Printf("  what is left of it: %d orders, %d runs\n", orders, runs)
	return nil
}

// buy starts a run, reads its event, sends it a message and waits for its end; then it may be sent
// nothing more.
func buy(ctx context.Context, s *Shop) error {
	placed, err := s.Place(ctx, cups, true)
	if err != nil {
		return err
	}
	total, err := s.QuotedTotal(ctx, placed.Run)
	if err != nil {
		return err
	}
	fmt.Printf("  it costs %s\n", total)
	if err := s.Approve(ctx, placed.Run, "Grace"); err != nil {
		return err
	}
	outcome, err := s.Outcome(ctx, placed.Run)
	if err != nil {
		return err
	}
	if outcome.Output == nil {
		return fmt.Errorf("order-%d: %s, %s", placed.Number, outcome.Status, *outcome.Error)
	}
	fmt.Printf("order-%d: %s, %s, approved by %s\n",
		placed.Number, outcome.Status, outcome.Output.Parcel, outcome.Output.ApprovedBy)

	err = s.Approve(ctx, placed.Run, "Mallory")
	// In class RL Rowlock itself refuses, and says why and what to do.
	var refused *pgconn.PgError
	if !errors.As(err, &refused) || !strings.HasPrefix(refused.Code, "RL") {
		return err
	}
	fmt.Printf("refused with %s: %s\n  %s\n", refused.Code, refused.Message, refused.Hint)
	return nil
}

// lookForFailures lists failed runs, page by page.
func lookForFailures(ctx context.Context, s *Shop) (err error) {
	var doomed [3]Placed
	for i := range doomed {
		if doomed[i], err = s.Place(ctx, teapot, true); err != nil {
			return err
		}
	}
	for _, placed := range doomed {
		if _, err := s.Outcome(ctx, placed.Run); err != nil {
			return err
		}
	}
	for before := ""; ; {
		page, err := s.FailedRuns(ctx, before, 2)
		if err != nil || len(page) == 0 {
			return err
		}
		fmt.Println("a page of failed runs:")
		for _, failed := range page {
			fmt.Printf("  %s: %s\n", failed.Key, failed.Error)
		}
		before = page[len(page)-1].Run
	}
}

// giveUp cancels a run that waits for its approval.
func giveUp(ctx context.Context, s *Shop) error {
	placed, err := s.Place(ctx, cups, true)
	if err != nil {
		return err
	}
	if _, err := s.QuotedTotal(ctx, placed.Run); err != nil {
		return err
	}
	if err := s.Cancel(ctx, placed.Run, "Ada wants tea"); err != nil {
		return err
	}
	outcome, err := s.Outcome(ctx, placed.Run)
	if err != nil {
		return err
	}
	fmt.Printf("order-%d: %s, %s\n", placed.Number, outcome.Status, *outcome.Error)
	return nil
}

func run(ctx context.Context) error {
	lookEvery, err := time.ParseDuration(cmp.Or(os.Getenv("LOOK_EVERY_SECONDS"), "5") + "s")
	if err != nil {
		return err
	}
	pool, err := pgxpool.New(ctx, os.Getenv("ROWLOCK_DATABASE_URL"))
	if err != nil {
		return err
	}
	defer pool.Close()
	_, err = pool.Exec(ctx,
		`create table if not exists shop_order (
		   number integer generated always as identity primary key, customer text not null)`)
	if err != nil {
		return err
	}
	news := NewNews(pool.Config().ConnConfig, lookEvery)
	defer news.Close()

	shop := &Shop{pool, news}
	type act func(context.Context, *Shop) error
	for _, play := range []act{changeMind, buy, lookForFailures, giveUp} {
		if err := play(ctx, shop); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}
