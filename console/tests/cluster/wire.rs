//! A minimal client: frames on a blocking socket, for tests of what no valid client does.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use kvorum_protocol::frame;
use kvorum_protocol::handshake::{ClientHello, ServerHello};
use kvorum_protocol::message::{Answer, ClientFrame, Request, ServerFrame};
use kvorum_replica::transport::addresses::{Addresses, FILE_NAME};
use rustix::process::Pid;

use kvorum_harness::cluster::{Cluster, PATIENCE};

/// The argument of a cluster that takes bytes as they are: the frames in them are what is tested.
pub const PLAIN: &str = "--tls=off";

/// Returns the addresses at which a replica listens.
pub fn addresses(cluster: &Cluster, name: &str) -> Addresses {
    Addresses::read(&cluster.folder.join(name).join(FILE_NAME)).unwrap()
}

/// Opens a connection with read and write timeouts.
pub fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends a frame.
pub fn send<M: serde::Serialize>(stream: &mut TcpStream, message: &M) -> std::io::Result<()> {
    let bytes = frame::encode(message, 4 << 20).unwrap();
    stream.write_all(&u32::try_from(bytes.len()).unwrap().to_be_bytes())?;
    stream.write_all(&bytes)
}

/// Receives a frame.
pub fn receive<M: serde::de::DeserializeOwned>(stream: &mut TcpStream) -> Option<M> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut bytes = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
    stream.read_exact(&mut bytes).ok()?;
    frame::decode(&bytes).ok()
}

/// Opens a connection and completes the handshake.
pub fn client(address: &str) -> TcpStream {
    try_client(address).unwrap()
}

/// Opens a connection and completes the handshake; `None` if the replica refuses.
pub fn try_client(address: &str) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    send(&mut stream, &ClientHello::new(None)).ok()?;
    receive::<ServerHello>(&mut stream)?.verdict.ok()?;
    Some(stream)
}

/// Sends a request and waits for the answer.
pub fn answer(stream: &mut TcpStream, call: u64, request: Request) -> Answer {
    send(stream, &ClientFrame::Call { call, request }).unwrap();
    loop {
        match receive::<ServerFrame>(stream).unwrap() {
            ServerFrame::Answer { call: of, answer } if of == call => return answer,
            _ => {}
        }
    }
}

/// Returns the resident memory of a process, in MiB; `None` if it has ended.
pub fn resident_mib(process: Pid) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{}/statm", process.as_raw_nonzero())).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096 / (1 << 20))
}
