//! One replica of a Kvorum cluster: OmniPaxos on RocksDB, its peers and its clients.
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
//! | module | what it is | pure |
//! |---|---|---|
//! | [`process`] | log, signals, exit status | |
//! | [`replica`] | opens, binds, starts, stops | |
//! | [`settings`] | what a replica is started with | |
//! | [`driver`] | the one loop and its invariants | |
//! | [`gate`] | messages that wait for a sync | yes |
//! | [`engine`] | all decisions | yes |
//! | [`limits`] | every bound of the memory, and their sum | yes |
//! | [`state_machine`] | applies decided entries | yes |
//! | [`entry`] | what the log holds | yes |
//! | [`snapshot`] | the state as it travels | yes |
//! | [`chain`] | which configuration a state is in | yes |
//! | [`planner`] | which replicas should be members | yes |
//! | [`marker`] | who began the cluster, and who may decide alone | yes |
//! | [`private`] | what other users of the machine may see: nothing | |
//! | `opening`, `room` | what a replica starts from, and whether its disk has room | |
//! | [`birth`] | how a replica comes by its identity | |
//! | `leaving` | how one that is told to end waits until the others do without it | |
//! | `stranded` | how one finds a cluster that went on without it | |
//! | [`orchestrator`] | who says how many replicas are wanted | |
//! | [`start_error`] | why a replica could not start | |
//! | [`start`] | one start of a replica, and how it proves that its disk continues another | yes |
//! | [`version`] | what programs must have in common | yes |
//! | [`storage`] | the disk, and one in memory | |
//! | [`transport`] | links to peers | |
//! | [`clients`] | clients' connections | |
//! | [`http`], [`metrics`] | probes and counters | |
//! | [`addresses`] | where a local replica listens | |
//!
//! Who may know whom: `process → replica → { transport, clients } → driver → { engine, storage }`;
//! `engine → { state_machine, storage }`; nothing calls the driver but through its inboxes. No two
//! files import each other in a circle; a test looks.

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
