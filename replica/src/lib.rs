//! One replica of a Kvorum cluster: OmniPaxos on RocksDB, with its peers and its clients.
//!
//! ```text
//!   clients ──▶ clients ─┐                    ┌─▶ engine ──▶ consensus (omnipaxos)
//!                        ├─▶ driver ──────────┤      │
//!   peers ◀─▶ transport ─┘   one thread,      │      ├─▶ state
//!                ▲           one loop         │      ▼
//!                │              │             └─▶ storage (one RocksDB, one log)
//!                └──── gate ◀───┘                    ▲
//!                       waits for ── sync thread ────┘
//! ```
//!
//! | module | contents | pure |
//! |---|---|---|
//! | [`node`] | the process: settings, start, identity, probes and counters, end | |
//! | [`driver`] | the main loop and its invariants | |
//! | [`engine`] | all decisions | yes |
//! | [`state`] | the replicated state, and what changes it | yes |
//! | [`planner`] | which replicas should be members | yes |
//! | [`marker`] | the cluster's origin, and the replica that may decide alone | yes |
//! | [`limits`] | all memory bounds, and their sum | yes |
//! | [`orchestrator`] | the source of the desired replica count | |
//! | [`storage`] | the disk, and a disk in memory | |
//! | [`transport`] | links to peers | |
//! | [`clients`] | clients' connections | |
//! | [`offline`] | recovery and restoration, on disks that no replica uses | |
//! | [`shares`] | fair shares of connections and memory among users and hosts | |
//! | [`private`] | keeps files private from other users of the machine | |
//!
//! Dependencies: `node → { transport, clients } → driver → { engine, storage }`;
//! `engine → { state, storage }`; the driver is called only through its inboxes. No two
//! files import each other in a circle; a test checks this.

pub mod clients;
pub mod driver;
pub mod engine;
pub mod limits;
pub mod marker;
pub mod node;
pub mod offline;
pub mod orchestrator;
pub mod planner;
pub mod private;
pub mod shares;
pub mod state;
pub mod storage;
pub mod transport;
