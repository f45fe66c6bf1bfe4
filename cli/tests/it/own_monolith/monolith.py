"""A monolith as teams have them: Python's own server, SQLite, sessions by cookie, a form, pages with whole links."""
import hashlib, json, re, secrets, sqlite3, sys, threading
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

PORT, FILE = int(sys.argv[1]), sys.argv[2]
LOCAL = threading.local()


def db():
    if not hasattr(LOCAL, "db"):
        LOCAL.db = sqlite3.connect(FILE, timeout=30)
        LOCAL.db.row_factory = sqlite3.Row
        LOCAL.db.execute("PRAGMA synchronous = OFF")  # For a test.
    return LOCAL.db


db().executescript("""
CREATE TABLE sessions (sid TEXT PRIMARY KEY, user_id INTEGER NOT NULL);
CREATE TABLE customers (
  id INTEGER PRIMARY KEY AUTOINCREMENT, name VARCHAR(200) NOT NULL, email VARCHAR(200) NOT NULL UNIQUE,
  status CHAR(1) NOT NULL DEFAULT 'A', credit DECIMAL(10,2) NOT NULL DEFAULT 0, vip INTEGER NOT NULL DEFAULT 0,
  legacy_flags INTEGER NOT NULL DEFAULT 7, created_at DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP);
""")
for n in range(1, 201):
    row = (f"First{n} Last{n}", f"c{n}@example.org", "AI"[n % 2], f"{n * 1.1:.2f}")
    db().execute("INSERT INTO customers (name, email, status, credit) VALUES (?, ?, ?, ?)", row)
db().commit()


def shown(row):
    return {"id": row["id"], "name": row["name"], "email": row["email"], "active": row["status"] == "A",
            "credit": f"{row['credit']:.2f}", "created_at": row["created_at"].replace(" ", "T") + "Z"}


class Shop(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def send(self, code, body, **fields):
        kind = "text/html; charset=utf-8" if isinstance(body, str) else "application/json"
        body = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(code)
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        if code != 304:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if code != 304 and self.command != "HEAD":
            self.wfile.write(body)

    def user(self):
        sid = SimpleCookie(self.headers.get("Cookie", "")).get("shopsession")
        row = sid and db().execute("SELECT user_id FROM sessions WHERE sid = ?", (sid.value,)).fetchone()
        return row and row["user_id"]

    def one(self, number):
        return db().execute("SELECT * FROM customers WHERE id = ?", (number,)).fetchone()

    def do_GET(self):
        base = "http://" + self.headers["Host"]
        if self.path == "/whoami":
            user = self.user()
            return self.send(200, {"user_id": user, "name": "ann"}) if user else self.send(401, {})
        if self.path == "/export.csv":
            self.send_response(200)
            self.send_header("Content-Type", "text/csv")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for row in db().execute("SELECT id, email FROM customers ORDER BY id"):
                line = f"{row['id']},{row['email']}\r\n".encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            return self.wfile.write(b"0\r\n\r\n")
        if self.path == "/customers":
            rows = db().execute("SELECT * FROM customers ORDER BY id LIMIT 20")
            return self.send(200, "".join(f'<a href="{base}/customers/{r["id"]}">{r["name"]}</a>' for r in rows))
        found = re.fullmatch(r"/api/customers/(\d+)", self.path)
        row = found and self.one(found[1])
        if not row:
            return self.send(404, {"error": "no such customer"})
        said = shown(row)
        tag = '"' + hashlib.md5(json.dumps(said).encode()).hexdigest() + '"'
        self.send(304 if self.headers.get("If-None-Match") == tag else 200, said, ETag=tag)

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/login":
            sid, user = secrets.token_hex(8), parse_qs(body.decode())["user"][0]
            db().execute("INSERT INTO sessions VALUES (?, ?)", (sid, user))
            db().commit()
            return self.send(303, "", Location="/customers", Set_Cookie=f"shopsession={sid}; Path=/")
        if not self.user():
            return self.send(401, {})
        said = json.loads(body)
        if self.command == "PUT":
            number = self.path.rsplit("/", 1)[1]
            db().execute("UPDATE customers SET name = ?, credit = ? WHERE id = ?", (said["name"], said["credit"], number))
        else:
            row = (said["name"], said["email"], said["credit"])
            number = db().execute("INSERT INTO customers (name, email, credit) VALUES (?, ?, ?)", row).lastrowid
        db().commit()
        self.send(200, shown(self.one(number)))

    do_PUT = do_POST


class Server(ThreadingHTTPServer):
    request_queue_size = 128


Server(("127.0.0.1", PORT), Shop).serve_forever()
