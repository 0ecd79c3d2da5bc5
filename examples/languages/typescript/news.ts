// When to look again for what a run does. Looking is the truth; being told saves the waiting.
//
// One connection listens for the whole process, and says so in the database: while nobody does,
// workers notify nobody. The protocol is in docs/languages.md.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { Client } from "pg";

const LEASE_S = 15;
const RECONNECT_MS = 1_000;

export class News {
  readonly #url: string;
  readonly #id = randomUUID();
  readonly #waiting = new Map<string, (() => void)[]>();
  readonly #ticks: NodeJS.Timeout;
  #client: Client | undefined; // while it listens
  #closed = false;

  /** `lookEveryMs`: in case a notification is lost with its sender. 250 behind PgBouncer. */
  constructor(url: string, lookEveryMs: number) {
    this.#url = url;
    this.#ticks = setInterval(() => this.#tellAll(), lookEveryMs);
    void this.#keepListening();
  }

  /** Look for something of a run until it is there. */
  async until<T>(run: string, look: () => Promise<T | undefined>, patienceMs = 60_000): Promise<T> {
    const deadline = Date.now() + patienceMs;
    for (;;) {
      const told = this.#told(run); // before the look, or what comes in between is missed
      const found = await look();
      if (found !== undefined) return found;
      if (Date.now() > deadline) throw new Error(`run ${run}: not within ${patienceMs} ms`);
      await told;
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#ticks);
    await this.#client?.query("select rowlock.unlisten($1)", [this.#id]).catch(() => {});
    await this.#client?.end();
  }

  #told(run: string): Promise<void> {
    return new Promise((tell) => this.#waiting.set(run, [...(this.#waiting.get(run) ?? []), tell]));
  }

  #tell(run: string): void {
    const waiting = this.#waiting.get(run) ?? [];
    this.#waiting.delete(run);
    for (const tell of waiting) tell();
  }

  #tellAll(): void {
    for (const run of [...this.#waiting.keys()]) this.#tell(run);
  }

  async #keepListening(): Promise<void> {
    while (!this.#closed) {
      try {
        await this.#listen();
      } catch (error) {
        console.error("looking only, not listening:", error);
      }
      if (!this.#closed) await sleep(RECONNECT_MS);
    }
  }

  /** Listen until the connection ends. */
  async #listen(): Promise<void> {
    const client = new Client({ connectionString: this.#url });
    const ended = new Promise<void>((resolve) => client.once("end", resolve));
    client.on("error", (error) => console.error("the listening connection:", error.message));
    client.on("notification", ({ payload }) => {
      for (const run of payload?.split(",") ?? []) this.#tell(run);
    });
    const renew = () =>
      client.query("select rowlock.listen($1, make_interval(secs => $2))", [this.#id, LEASE_S]);

    await client.connect();
    const renewals = setInterval(() => renew().catch(() => client.end()), (LEASE_S * 1_000) / 3);
    try {
      await client.query("listen rowlock_news");
      await renew();
      this.#client = client;
      this.#tellAll(); // of what came before nobody told
      if (!this.#closed) await ended;
    } finally {
      this.#client = undefined;
      clearInterval(renewals);
      await client.end();
    }
  }
}
