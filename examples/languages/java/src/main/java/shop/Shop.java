package shop;

import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.SQLException;
import java.time.Duration;
import java.time.LocalDate;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.UUID;
import javax.sql.DataSource;
import org.postgresql.ds.PGSimpleDataSource;
import org.postgresql.util.PSQLException;

/**
 * Orders in a shop whose workflow is written in Python, in ../shop.py: start, send, wait, list,
 * cancel.
 *
 * <p>JSON is built and taken apart by PostgreSQL, so that the driver is all that is needed.
 */
public final class Shop {
  record Order(String customer, LocalDate deliverOn, String sku, int pieces) {}

  record Placed(int number, UUID run) {}

  record Outcome(String status, String parcel, String approvedBy, String error) {}

  record Failed(UUID run, String key, String error) {}

  private static final UUID AFTER_ALL = UUID.fromString("ffffffff-ffff-ffff-ffff-ffffffffffff");

  private static final Duration PATIENCE = Duration.ofMinutes(1);

  private final DataSource database;
  private final News news;

  Shop(DataSource database, News news) {
    this.database = database;
    this.news = news;
  }

  /** A row of ours and a run, in one transaction: both, or neither. */
  Placed place(Order order, boolean commit) throws SQLException {
    try (var tx = database.getConnection()) {
      tx.setAutoCommit(false);
      try {
        int number = insert(tx, order);
        UUID run = start(tx, number, order);
        if (commit) {
          tx.commit();
        } else {
          tx.rollback();
        }
        System.out.printf("order-%d: %s%n", number, commit ? "placed" : "rolled back");
        return new Placed(number, run);
      } catch (SQLException error) {
        tx.rollback();
        throw error;
      }
    }
  }

  private static int insert(Connection tx, Order order) throws SQLException {
    String sql = "insert into shop_order (customer) values (?) returning number";
    try (var insert = tx.prepareStatement(sql)) {
      insert.setString(1, order.customer());
      try (var row = insert.executeQuery()) {
        row.next();
        return row.getInt(1);
      }
    }
  }

  private static UUID start(Connection tx, int number, Order order) throws SQLException {
    String sql =
        """
        select rowlock.start('fulfil', app => 'shop', key => 'order-' || o.number,
            input => jsonb_build_object('order', jsonb_build_object(
                'number', o.number, 'customer', o.customer, 'deliver_on', o.deliver_on,
                'lines', jsonb_build_array(
                    jsonb_build_object('sku', o.sku, 'pieces', o.pieces)))),
            attributes => jsonb_build_object('customer', o.customer))
          from (values (?, ?, ?, ?, ?)) as o (number, customer, deliver_on, sku, pieces)
        """;
    try (var start = tx.prepareStatement(sql)) {
      start.setInt(1, number);
      start.setString(2, order.customer());
      start.setObject(3, order.deliverOn());
      start.setString(4, order.sku());
      start.setInt(5, order.pieces());
      try (var row = start.executeQuery()) {
        row.next();
        return row.getObject(1, UUID.class);
      }
    }
  }

  /** How many rows of ours and how many runs there are of an order. */
  String count(Placed placed) throws SQLException {
    String sql =
        """
        select (select count(*) from shop_order where number = ?),
               (select count(*) from rowlock.runs where run_id = ?)
        """;
    try (var connection = database.getConnection();
        var count = connection.prepareStatement(sql)) {
      count.setInt(1, placed.number());
      count.setObject(2, placed.run());
      try (var row = count.executeQuery()) {
        row.next();
        return row.getInt(1) + " orders, " + row.getInt(2) + " runs";
      }
    }
  }

  /** What the workflow shows in its event {@code quote}, once it does. */
  BigDecimal quotedTotal(UUID run) throws SQLException {
    String sql = "select (rowlock.get_event(?, 'quote') ->> 'total')::numeric";
    try (var connection = database.getConnection();
        var look = connection.prepareStatement(sql)) {
      look.setObject(1, run);
      return news.until(
          run,
          PATIENCE,
          () -> {
            try (var row = look.executeQuery()) {
              row.next();
              return Optional.ofNullable(row.getBigDecimal(1));
            }
          });
    }
  }

  /** A message. Its key makes it safe to send again when it is not known whether it was sent. */
  void approve(UUID run, String by) throws SQLException {
    String sql =
        """
        select rowlock.send(?, 'approval', jsonb_build_object('by', a.by, 'at', now()),
                            key => 'approved by ' || a.by)
          from (values (?)) as a (by)
        """;
    try (var connection = database.getConnection();
        var send = connection.prepareStatement(sql)) {
      send.setObject(1, run);
      send.setString(2, by);
      send.execute();
    }
  }

  /** Wait for the end of a run. */
  Outcome outcome(UUID run) throws SQLException {
    String sql =
        """
        select status, output ->> 'parcel', output ->> 'approved_by', error ->> 'message'
          from rowlock.runs
         where run_id = ? and finished_at is not null
        """;
    try (var connection = database.getConnection();
        var look = connection.prepareStatement(sql)) {
      look.setObject(1, run);
      return news.until(
          run,
          PATIENCE,
          () -> {
            try (var row = look.executeQuery()) {
              return row.next()
                  ? Optional.of(
                      new Outcome(
                          row.getString(1), row.getString(2), row.getString(3), row.getString(4)))
                  : Optional.empty();
            }
          });
    }
  }

  /**
   * A page of failed runs, from the newest: ids are in the order of time, and any page is as cheap
   * as the first.
   */
  List<Failed> failedRuns(UUID before, int pageSize) throws SQLException {
    String sql =
        """
        select run_id, key, error ->> 'message'
          from rowlock.runs
         where app = 'shop' and status = 'failed' and run_id < ?
         order by run_id desc
         limit ?
        """;
    try (var connection = database.getConnection();
        var list = connection.prepareStatement(sql)) {
      list.setObject(1, before);
      list.setInt(2, pageSize);
      try (var row = list.executeQuery()) {
        List<Failed> page = new ArrayList<>();
        while (row.next()) {
          page.add(new Failed(row.getObject(1, UUID.class), row.getString(2), row.getString(3)));
        }
        return page;
      }
    }
  }

  void cancel(UUID run, String reason) throws SQLException {
    try (var connection = database.getConnection();
        var cancel = connection.prepareStatement("select rowlock.cancel(?, reason => ?)")) {
      cancel.setObject(1, run);
      cancel.setString(2, reason);
      cancel.execute();
    }
  }

  private void tellTheStory() throws SQLException {
    try (var connection = database.getConnection();
        var statement = connection.createStatement()) {
      statement.execute(
          """
          create table if not exists shop_order (
              number integer generated always as identity primary key, customer text not null)
          """);
    }
    var cups = new Order("Ada", LocalDate.of(2026, 12, 24), "cup", 3);
    var teapot = new Order("Ada", LocalDate.of(2026, 12, 24), "teapot", 1);

    Placed rolledBack = place(cups, false);
    System.out.println("  what is left of it: " + count(rolledBack));

    Placed placed = place(cups, true);
    System.out.println("  it costs " + quotedTotal(placed.run()));
    approve(placed.run(), "Grace");
    Outcome delivered = outcome(placed.run());
    System.out.printf(
        "order-%d: %s, %s, approved by %s%n",
        placed.number(), delivered.status(), delivered.parcel(), delivered.approvedBy());

    try {
      approve(placed.run(), "Mallory");
    } catch (PSQLException error) {
      // In class RL Rowlock itself refuses, and says why and what to do.
      var said = error.getServerErrorMessage();
      if (said == null || !error.getSQLState().startsWith("RL")) {
        throw error;
      }
      System.out.printf(
          "refused with %s: %s%n  %s%n", said.getSQLState(), said.getMessage(), said.getHint());
    }

    var doomed = List.of(place(teapot, true), place(teapot, true), place(teapot, true));
    for (Placed one : doomed) {
      outcome(one.run());
    }
    List<Failed> page = failedRuns(AFTER_ALL, 2);
    while (!page.isEmpty()) {
      System.out.println("a page of failed runs:");
      page.forEach(failed -> System.out.println("  " + failed.key() + ": " + failed.error()));
      page = failedRuns(page.get(page.size() - 1).run(), 2);
    }

    Placed unwanted = place(cups, true);
    quotedTotal(unwanted.run());
    cancel(unwanted.run(), "Ada wants tea");
    Outcome cancelled = outcome(unwanted.run());
    System.out.printf(
        "order-%d: %s, %s%n", unwanted.number(), cancelled.status(), cancelled.error());
  }

  public static void main(String[] arguments) throws Exception {
    var database = new PGSimpleDataSource(); // connects each time; in a server use a pool
    database.setUrl(System.getenv("JDBC_DATABASE_URL"));
    double seconds = Double.parseDouble(System.getenv().getOrDefault("LOOK_EVERY_SECONDS", "5"));
    try (var news = News.of(database, Duration.ofMillis((long) (seconds * 1_000)))) {
      new Shop(database, news).tellTheStory();
    }
  }
}
