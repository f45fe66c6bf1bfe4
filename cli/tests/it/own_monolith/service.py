"""The new service: another shape of the table, no sessions, HTTP/1.0 as Python's server speaks it by itself."""
import hashlib, json, re, sqlite3, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from caller import caller  # What docs/your-own-monolith.md shows.

PORT, FILE = int(sys.argv[1]), sys.argv[2]
SECRET = open(sys.argv[3], "rb").read().strip()
LOCAL = threading.local()


def db():
    if not hasattr(LOCAL, "db"):
        LOCAL.db = sqlite3.connect(FILE, timeout=30, isolation_level=None)
        LOCAL.db.row_factory = sqlite3.Row
        LOCAL.db.execute("PRAGMA synchronous = OFF")  # For a test.
    return LOCAL.db


db().executescript("""
CREATE TABLE customer (
  id INTEGER PRIMARY KEY AUTOINCREMENT, first_name TEXT NOT NULL, last_name TEXT NOT NULL, email TEXT NOT NULL UNIQUE,
  status TEXT NOT NULL DEFAULT 'active', credit_cents INTEGER NOT NULL DEFAULT 0, vip INTEGER NOT NULL DEFAULT 0,
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')));
""")


def shown(row):
    return {"id": row["id"], "name": f"{row['first_name']} {row['last_name']}", "email": row["email"],
            "active": row["status"] == "active", "credit": f"{row['credit_cents'] / 100:.2f}",
            "created_at": row["created_at"]}


class Customers(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def send(self, code, body, **fields):
        kind = "text/html; charset=utf-8" if isinstance(body, str) else "application/json"
        body = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(code)
        self.send_header("X-Build-Id", "customers-1")
        for name, value in fields.items():
            self.send_header(name, value)
        if code != 304:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if code != 304 and self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        base = "http://" + self.headers["Host"]
        if self.path == "/customers":
            rows = [shown(row) for row in db().execute("SELECT * FROM customer ORDER BY id LIMIT 20")]
            return self.send(200, "".join(f'<a href="{base}/customers/{r["id"]}">{r["name"]}</a>' for r in rows))
        found = re.fullmatch(r"/api/customers/(\d+)", self.path)
        row = found and db().execute("SELECT * FROM customer WHERE id = ?", (found[1],)).fetchone()
        if not row:
            return self.send(404, {"error": "no such customer"})
        said = shown(row)
        tag = '"' + hashlib.md5(json.dumps(said).encode()).hexdigest() + '"'
        self.send(304 if self.headers.get("If-None-Match") == tag else 200, said, ETag=tag)

    do_HEAD = do_GET

    def do_POST(self):
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        who = caller(self.headers.get("x-outgrow-identity"), SECRET)
        if not who or who["name"] != "ann" or caller(self.headers["x-outgrow-identity"], b"another secret!!"):
            return self.send(401, {})
        first, _, last = said["name"].partition(" ")
        cents = round(float(said["credit"]) * 100)
        if self.command == "PUT":
            row = (first, last, cents, self.path.rsplit("/", 1)[1])
            sql = "UPDATE customer SET first_name = ?, last_name = ?, credit_cents = ? WHERE id = ? RETURNING *"
        else:
            row = (first, last, cents, said["email"])
            sql = "INSERT INTO customer (first_name, last_name, credit_cents, email) VALUES (?, ?, ?, ?) RETURNING *"
        self.send(200, shown(db().execute(sql, row).fetchall()[0]))

    do_PUT = do_POST


class Server(ThreadingHTTPServer):
    request_queue_size = 128


Server(("127.0.0.1", PORT), Customers).serve_forever()
