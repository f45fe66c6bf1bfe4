//! The connection that the log comes by.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{BinlogStream, BinlogStreamRequest, Conn, Opts, OptsBuilder, Sid};

use super::gtid::Gtids;
use super::place::Begin;
use crate::spec::MysqlUrl;

/// Between two signs of life of a server that has nothing to tell.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The largest packet the protocol knows: an event is at least as large as its row.
const PACKET: usize = 1 << 30;

/// Why the log does not come.
#[derive(Debug)]
pub(super) enum Broken {
    /// The server finds nothing that it can send from the place on.
    Gone(String),
    /// It may come again.
    Passing(String),
}

impl Broken {
    pub(super) fn text(self) -> String {
        match self {
            Self::Gone(text) | Self::Passing(text) => text,
        }
    }
}

impl From<mysql_async::Error> for Broken {
    fn from(error: mysql_async::Error) -> Self {
        // One number for all that is wrong with a place in the log, and for one reader too many.
        const FATAL: u16 = 1236;
        match error {
            mysql_async::Error::Server(error) => {
                let another = error.message.contains("same server");
                if error.code == FATAL && !another {
                    Self::Gone(error.message)
                } else {
                    Self::Passing(error.message)
                }
            }
            other => Self::Passing(other.to_string()),
        }
    }
}

/// Asks for the log from a place on, or for what is behind these transactions. `encrypted` is
/// whether other connections are.
pub(super) async fn dump(
    url: &MysqlUrl,
    encrypted: bool,
    reader: u32,
    from: &Begin,
) -> Result<BinlogStream, Broken> {
    let options = url.binlog(encrypted).map_err(Broken::Passing)?;
    let mut connection = Conn::new(options).await?;
    let nanos = HEARTBEAT.as_nanos();
    // Each name is known to some servers only; a variable that nobody reads does no harm. MariaDB
    // tells of transactions as they are only to those who say that they know them.
    let session = format!(
        "SET @master_heartbeat_period = {nanos}, @source_heartbeat_period = {nanos}, \
         @mariadb_slave_capability = 4"
    );
    connection.query_drop(session).await?;
    let request = BinlogStreamRequest::new(reader);
    let request = match from {
        Begin::Place(place) => request
            .with_filename(place.file.as_bytes())
            .with_pos(place.pos),
        Begin::Gtids(gtids @ Gtids::Maria(_)) => {
            // It refuses a position that its log has not, also one that it has gone another way from.
            let session = format!(
                "SET @slave_connect_state = '{gtids}', @slave_gtid_strict_mode = 1, \
                 @slave_gtid_ignore_duplicates = 0"
            );
            connection.query_drop(session).await?;
            request
        }
        Begin::Gtids(gtids) => {
            let sets = gtids.by_server();
            let sets: Result<Vec<Sid<'_>>, _> = sets.iter().map(|set| set.parse()).collect();
            let sets = sets.map_err(|e| Broken::Passing(e.to_string()))?;
            request.with_gtid().with_gtid_set(sets)
        }
    };
    Ok(connection.get_binlog_stream(request).await?)
}

impl MysqlUrl {
    /// How to connect for the log, or why that cannot be.
    fn binlog(&self, encrypted: bool) -> Result<Opts, String> {
        let options = self.options().map_err(|e| e.to_string())?;
        let builder = OptsBuilder::default()
            .ip_or_hostname(options.get_host())
            .tcp_port(options.get_port())
            .user(Some(options.get_username()))
            .pass(self.password())
            .db_name(options.get_database())
            // Never by another way than the URL says.
            .prefer_socket(false)
            .socket(options.get_socket().map(|path| path.to_string_lossy()))
            .max_allowed_packet(Some(PACKET))
            // Ours ends when the link does.
            .wait_timeout(Some(28_800))
            .tcp_keepalive(Some(Duration::from_secs(30)));
        Ok(builder.ssl_opts(self.tls().binlog(encrypted)).into())
    }
}
