package shop;

import java.sql.Connection;
import java.sql.SQLException;
import java.sql.SQLTimeoutException;
import java.sql.Statement;
import java.time.Duration;
import java.time.Instant;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import javax.sql.DataSource;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;

/**
 * Knows when to look again for what a run does. Looking is the truth; being told saves the waiting.
 *
 * <p>One connection listens for the whole process, and says so in the database: while nobody does,
 * workers notify nobody. The protocol is in docs/languages.md.
 */
final class News implements AutoCloseable {
  private static final Duration LEASE = Duration.ofSeconds(15);
  private static final int RECONNECT_MS = 1_000;
  private static final int ONE_READ_MS = 250; // of the socket; the database is asked nothing

  private final DataSource database;
  private final UUID id = UUID.randomUUID();
  private final Map<String, CompletableFuture<Void>> waiting = new ConcurrentHashMap<>();
  private final ScheduledExecutorService threads = Executors.newScheduledThreadPool(2);
  private volatile boolean closed;

  /** One look; empty when what it looks for is not there yet. */
  @FunctionalInterface
  interface Look<T> {
    Optional<T> now() throws SQLException;
  }

  private News(DataSource database) {
    this.database = database;
  }

  /** {@code lookEvery}: in case a notification is lost with its sender. 250 ms behind PgBouncer. */
  static News of(DataSource database, Duration lookEvery) {
    News news = new News(database);
    long everyMs = lookEvery.toMillis();
    news.threads.scheduleAtFixedRate(news::tellAll, everyMs, everyMs, TimeUnit.MILLISECONDS);
    news.threads.scheduleWithFixedDelay(news::listen, 0, RECONNECT_MS, TimeUnit.MILLISECONDS);
    return news;
  }

  /** Look for something of a run until it is there. */
  <T> T until(UUID run, Duration patience, Look<T> look) throws SQLException {
    Instant deadline = Instant.now().plus(patience);
    while (true) {
      var told = told(run.toString()); // before the look, or what comes in between is missed
      Optional<T> found = look.now();
      if (found.isPresent()) {
        return found.get();
      }
      if (Instant.now().isAfter(deadline)) {
        throw new SQLTimeoutException("run " + run + ": not within " + patience);
      }
      told.join();
    }
  }

  @Override
  public void close() {
    closed = true;
    threads.shutdown(); // what listens ends with its next read
  }

  private CompletableFuture<Void> told(String run) {
    return waiting.computeIfAbsent(run, id -> new CompletableFuture<>());
  }

  private void tell(String run) {
    var told = waiting.remove(run);
    if (told != null) {
      told.complete(null);
    }
  }

  private void tellAll() {
    waiting.keySet().forEach(this::tell);
  }

  /** Listen until the connection is lost, or we are closed; the executor calls it again. */
  private void listen() {
    try (Connection connection = database.getConnection();
        Statement statement = connection.createStatement()) {
      var notified = connection.unwrap(PGConnection.class);
      statement.execute("listen rowlock_news");
      renew(connection);
      Instant renewed = Instant.now();
      tellAll(); // of what came before nobody told
      while (!closed) {
        for (PGNotification news : notified.getNotifications(ONE_READ_MS)) {
          for (String run : news.getParameter().split(",")) {
            tell(run);
          }
        }
        if (Instant.now().isAfter(renewed.plus(LEASE.dividedBy(3)))) {
          renew(connection);
          renewed = Instant.now();
        }
      }
      try (var unlisten = connection.prepareStatement("select rowlock.unlisten(?)")) {
        unlisten.setObject(1, id);
        unlisten.execute();
      }
    } catch (SQLException error) {
      System.err.println("looking only, not listening: " + error.getMessage());
    }
  }

  private void renew(Connection connection) throws SQLException {
    try (var renew = connection.prepareStatement("select rowlock.listen(?, ?::interval)")) {
      renew.setObject(1, id);
      renew.setString(2, LEASE.toString()); // ISO 8601: PT15S
      renew.execute();
    }
  }
}
