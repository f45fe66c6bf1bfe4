//! Every way in which PostgreSQL lets a user in who reads its log.

use crate::postgres::{Db, EXTRACTED_SQLITE, LEGACY_PG, Pair};
use crate::tls::follow_by;

/// The test itself is let in as ever; the others have to say a password.
const RULES: &str = "host all outgrow 127.0.0.1/32 trust\n\
                     host all by_scram 127.0.0.1/32 scram-sha-256\n\
                     host all by_md5 127.0.0.1/32 md5\n\
                     host all by_text 127.0.0.1/32 password\n\
                     local all by_scram scram-sha-256\n";
const USERS: &str = "SET password_encryption = 'scram-sha-256'; \
     CREATE ROLE by_scram SUPERUSER LOGIN PASSWORD 'a:b/c d'; \
     CREATE ROLE by_text SUPERUSER LOGIN PASSWORD 'a:b/c d'; \
     SET password_encryption = 'md5'; \
     CREATE ROLE by_md5 SUPERUSER LOGIN PASSWORD 'a:b/c d'; \
     RESET password_encryption";

#[tokio::test(flavor = "multi_thread")]
async fn postgres_sends_its_log_to_whoever_has_a_password() {
    let legacy = Db::pg(LEGACY_PG).await;
    legacy.execute(USERS).await;
    let Db::Pg(server) = &legacy else {
        unreachable!("it is one");
    };
    let shown = async |what: &str| -> String {
        let query = sqlx::AssertSqlSafe(format!("SHOW {what}"));
        sqlx::query_scalar(query)
            .fetch_one(server.pool())
            .await
            .unwrap()
    };
    std::fs::write(shown("hba_file").await, RULES).unwrap();
    let port = server.address().port();
    let folder = shown("data_directory").await;
    let by = |user: &str| format!("postgres://{user}:a%3Ab%2Fc%20d@127.0.0.1:{port}/postgres");
    let socket = format!("{}?host={folder}", by("by_scram"));
    let urls = [by("by_scram"), by("by_md5"), by("by_text"), socket];
    legacy.execute("SELECT pg_reload_conf()").await;
    let extracted = Db::lite(EXTRACTED_SQLITE).await;
    let pair = Pair::replicated(legacy, extracted);
    let who = "SELECT count(*) FROM pg_stat_replication WHERE usename LIKE 'by\\_%'";
    let look = async || assert_eq!(pair.legacy.number(who).await, 1);
    follow_by(&pair, &urls, look).await;
}
