//! How the broker is.

use sluice_tests::broker::TestBroker;

use super::{assert_table, json, printed};

#[test]
fn status_tells_how_the_broker_is_and_how_it_began() {
    let mut broker = TestBroker::start();
    let new = printed(broker.url(), &["status"], "");
    assert_table(&new, &["version", "epoch 1", "taken", "nothing, a new log"]);
    printed(broker.url(), &["topic", "create", "in"], "");
    printed(broker.url(), &["group", "create", "in", "ocr"], "");
    let first = json(broker.url(), &["status"]).remove(0);
    assert_eq!((&first["topics"], &first["groups"]), (&1.into(), &1.into()));
    assert_eq!(first["log_failure"], "");
    assert_eq!(first["log_id"].as_str().unwrap().len(), 32);

    assert!(broker.stop().success());
    broker.restart();
    let second = json(broker.url(), &["status"]).remove(0);
    assert_eq!(second["log_id"], first["log_id"]);
    assert_eq!(second["log_epoch"], 2);
    assert_eq!(second["recovery"]["clean"], true);
    assert_eq!(second["topics"], 1);
    broker.restart();
    let killed = printed(broker.url(), &["status"], "");
    assert_table(&killed, &["epoch 3", "not closed in order"]);
}
