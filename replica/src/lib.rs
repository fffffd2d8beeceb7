//! One replica of a Kvorum cluster: OmniPaxos on RocksDB, with its peers and its clients.
//!
//! ```text
//!   clients ──▶ clients ─┐                    ┌─▶ engine ──▶ consensus (omnipaxos)
//!                        ├─▶ driver ──────────┤      │
//!   peers ◀─▶ transport ─┘   one thread,      │      ├─▶ state_machine
//!                ▲           one loop         │      ▼
//!                │              │             └─▶ storage (one RocksDB, one log)
//!                └──── gate ◀───┘                    ▲
//!                       waits for ── sync thread ────┘
//! ```
//!
//! | module | contents | pure |
//! |---|---|---|
//! | [`process`] | log, signals, exit status | |
//! | [`replica`] | opens, binds, starts and stops a replica | |
//! | [`settings`] | the settings that a replica starts with | |
//! | [`driver`] | the main loop and its invariants | |
//! | [`gate`] | messages that wait for a sync | yes |
//! | [`engine`] | all decisions | yes |
//! | [`limits`] | all memory bounds, and their sum | yes |
//! | [`state_machine`] | applies decided entries | yes |
//! | [`entry`] | the entries of the log | yes |
//! | [`snapshot`] | the state as it is transferred | yes |
//! | [`chain`] | the configuration that a state is in | yes |
//! | [`planner`] | which replicas should be members | yes |
//! | [`marker`] | the cluster's origin, and the replica that may decide alone | yes |
//! | [`private`] | keeps files private from other users of the machine | |
//! | `opening`, `room` | opening the disk at the start, and checking its free space | |
//! | [`birth`] | how a replica gets its identity | |
//! | `leaving` | waiting, before the end, until the others do without this replica | |
//! | `stranded` | rediscovering a cluster that went on without this replica | |
//! | [`orchestrator`] | the source of the desired replica count | |
//! | [`start_error`] | why a replica could not start | |
//! | [`start`] | one start of a replica, and how it proves that its disk continues another | yes |
//! | [`version`] | the cluster's version, which all programs must know | yes |
//! | [`storage`] | the disk, and a disk in memory | |
//! | [`transport`] | links to peers | |
//! | [`clients`] | clients' connections | |
//! | [`http`], [`metrics`] | probes and counters | |
//! | [`addresses`] | the addresses of a local replica | |
//!
//! Dependencies: `process → replica → { transport, clients } → driver → { engine, storage }`;
//! `engine → { state_machine, storage }`; the driver is called only through its inboxes. No two
//! files import each other in a circle; a test checks this.

pub mod addresses;
pub mod birth;
pub mod chain;
pub mod clients;
pub mod driver;
pub mod engine;
pub mod entry;
pub mod gate;
pub mod http;
mod leaving;
pub mod limits;
pub mod marker;
pub mod metrics;
mod opening;
pub mod orchestrator;
pub mod planner;
pub mod private;
pub mod process;
pub mod replica;
mod room;
pub mod settings;
pub mod snapshot;
pub mod start;
pub mod start_error;
pub mod state_machine;
pub mod storage;
mod stranded;
pub mod transport;
pub mod version;
