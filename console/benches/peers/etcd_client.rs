//! As much of etcd's API as the benchmark needs: put and get, over gRPC to all members.
//!
//! Requests have two fields at most, and answers stay as they are: it needs no generated code.

use bytes::{Buf, BufMut, Bytes};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// The numbers of a request's fields.
const KEY: u8 = 1;
const VALUE: u8 = 2;
/// The wire type of bytes, in the lowest three bits of a field's tag.
const BYTES: u8 = 2;

/// Messages as the bytes that they are on the wire.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Appends a field as protobuf encodes it: a tag, the length in groups of seven bits, the bytes.
fn put_field(message: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    message.push(number << 3 | BYTES);
    let mut length = bytes.len();
    while length > 0x7f {
        message.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    message.push(u8::try_from(length).unwrap());
    message.extend_from_slice(bytes);
}

/// A client of all members, which balances its requests over one connection to each.
#[derive(Clone)]
pub struct EtcdClient(Grpc<Channel>);

impl EtcdClient {
    /// Connects to the members at these addresses, when they are first needed.
    pub fn new(endpoints: &[String]) -> Self {
        let endpoints = endpoints.iter().map(|url| Endpoint::from_shared(url.clone()).unwrap());
        Self(Grpc::new(Channel::balance_list(endpoints.map(|one| one.tcp_nodelay(true)))))
    }

    /// Puts a key.
    pub async fn put(&mut self, key: &str, value: &[u8]) -> Result<(), Status> {
        let mut message = Vec::with_capacity(key.len() + value.len() + 12);
        put_field(&mut message, KEY, key.as_bytes());
        put_field(&mut message, VALUE, value);
        self.call("/etcdserverpb.KV/Put", message).await.map(drop)
    }

    /// Gets a key, linearizably; returns the answer as it came.
    pub async fn get(&mut self, key: &str) -> Result<Bytes, Status> {
        let mut message = Vec::with_capacity(key.len() + 8);
        put_field(&mut message, KEY, key.as_bytes());
        self.call("/etcdserverpb.KV/Range", message).await
    }

    async fn call(&mut self, path: &'static str, message: Vec<u8>) -> Result<Bytes, Status> {
        let ready = self.0.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static(path);
        Ok(self.0.unary(Request::new(message), path, Raw).await?.into_inner())
    }
}
