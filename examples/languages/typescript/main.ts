// Orders in a shop whose workflow is written in Python, in ../shop.py: start, send, wait, list,
// cancel.

import { DatabaseError, Pool } from "pg";
import { News } from "./news.ts";

interface Order {
  customer: string;
  deliver_on: string; // a date: "2026-12-24"
  lines: { sku: string; pieces: number }[];
}

interface Placed {
  number: number;
  run: string;
}

interface Outcome {
  status: "succeeded" | "failed" | "cancelled" | "dead";
  output: { parcel: string; total: string; approved_by: string } | null; // a Decimal is text
  error: string | null;
}

const url = process.env["ROWLOCK_DATABASE_URL"];
if (!url) throw new Error("ROWLOCK_DATABASE_URL must name the database that Rowlock uses");
const pool = new Pool({ connectionString: url });
pool.on("error", (error) => console.error("an idle connection:", error.message));
const news = new News(url, 1_000 * Number(process.env["LOOK_EVERY_SECONDS"] ?? 5));

/** A row of ours and a run, in one transaction: both, or neither. */
async function place(order: Order, { commit }: { commit: boolean }): Promise<Placed> {
  const tx = await pool.connect();
  try {
    await tx.query("begin");
    const inserted = await tx.query<{ number: number }>(
      "insert into shop_order (customer) values ($1) returning number",
      [order.customer],
    );
    const number = inserted.rows[0]!.number;
    const started = await tx.query<{ run: string }>(
      `select rowlock.start('fulfil', app => 'shop',
                            key => $1, input => $2, attributes => $3) as run`,
      [`order-${number}`, { order: { number, ...order } }, { customer: order.customer }],
    );
    await tx.query(commit ? "commit" : "rollback");
    console.log(`order-${number}: ${commit ? "placed" : "rolled back"}`);
    return { number, run: started.rows[0]!.run };
  } catch (error) {
    await tx.query("rollback");
    throw error;
  } finally {
    tx.release();
  }
}

/** How many rows of ours and how many runs there are of an order. */
async function count({ number, run }: Placed): Promise<string> {
  const { rows } = await pool.query<{ orders: string; runs: string }>(
    `select (select count(*) from shop_order where number = $1) as orders,
            (select count(*) from rowlock.runs where run_id = $2) as runs`,
    [number, run],
  );
  return `${rows[0]!.orders} orders, ${rows[0]!.runs} runs`;
}

/** What the workflow shows in its event `quote`, once it does. */
function quotedTotal(run: string): Promise<string> {
  return news.until(run, async () => {
    const { rows } = await pool.query<{ total: string | null }>(
      "select rowlock.get_event($1, 'quote') ->> 'total' as total",
      [run],
    );
    return rows[0]!.total ?? undefined;
  });
}

/** A message. Its key makes it safe to send again when it is not known whether it was sent. */
async function approve(run: string, by: string): Promise<void> {
  await pool.query("select rowlock.send($1, 'approval', $2, key => $3)", [
    run,
    { by, at: new Date() },
    `approved by ${by}`,
  ]);
}

function outcome(run: string): Promise<Outcome> {
  return news.until(run, async () => {
    const { rows } = await pool.query<Outcome>(
      `select status, output, error ->> 'message' as error
         from rowlock.runs
        where run_id = $1 and finished_at is not null`,
      [run],
    );
    return rows[0];
  });
}

/** Pages, from the newest: ids are in the order of time, and any page is as cheap as the first. */
async function* failedRuns(pageSize: number) {
  let before = "ffffffff-ffff-ffff-ffff-ffffffffffff";
  for (;;) {
    const { rows: page } = await pool.query<{ run_id: string; key: string; error: string }>(
      `select run_id, key, error ->> 'message' as error
         from rowlock.runs
        where app = 'shop' and status = 'failed' and run_id < $1
        order by run_id desc
        limit $2`,
      [before, pageSize],
    );
    const last = page.at(-1);
    if (!last) return;
    yield page;
    before = last.run_id;
  }
}

async function main(): Promise<void> {
  await pool.query(
    `create table if not exists shop_order (
       number integer generated always as identity primary key, customer text not null)`,
  );
  const lines = [{ sku: "cup", pieces: 3 }];
  const cups: Order = { customer: "Ada", deliver_on: "2026-12-24", lines };
  const teapot: Order = { ...cups, lines: [{ sku: "teapot", pieces: 1 }] };

  const rolledBack = await place(cups, { commit: false });
  console.log(`  what is left of it: ${await count(rolledBack)}`);

  const { number, run } = await place(cups, { commit: true });
  console.log(`  it costs ${await quotedTotal(run)}`);
  await approve(run, "Grace");
  const { status, output } = await outcome(run);
  console.log(`order-${number}: ${status}, ${output?.parcel}, approved by ${output?.approved_by}`);

  try {
    await approve(run, "Mallory");
  } catch (error) {
    // In class RL Rowlock itself refuses, and says why and what to do.
    if (!(error instanceof DatabaseError && error.code?.startsWith("RL"))) throw error;
    console.log(`refused with ${error.code}: ${error.message}\n  ${error.hint}`);
  }

  const doomed = [];
  for (let n = 0; n < 3; n++) doomed.push(await place(teapot, { commit: true }));
  for (const { run } of doomed) await outcome(run);
  for await (const page of failedRuns(2)) {
    console.log("a page of failed runs:");
    for (const { key, error } of page) console.log(`  ${key}: ${error}`);
  }

  const unwanted = await place(cups, { commit: true });
  await quotedTotal(unwanted.run);
  await pool.query("select rowlock.cancel($1, reason => $2)", [unwanted.run, "Ada wants tea"]);
  const cancelled = await outcome(unwanted.run);
  console.log(`order-${unwanted.number}: ${cancelled.status}, ${cancelled.error}`);
}

try {
  await main();
} finally {
  await news.close();
  await pool.end();
}
