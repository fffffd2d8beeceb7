//! As much of etcd's API as the benchmark needs: put and get, over gRPC to all members.

use prost::Message;
use prost::bytes::Bytes;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct PutResponse {}

#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    found: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
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
    pub async fn put(&mut self, key: String, value: Vec<u8>) -> Result<(), Status> {
        let request = PutRequest { key: key.into(), value: value.into() };
        self.call::<_, PutResponse>("/etcdserverpb.KV/Put", request).await.map(drop)
    }

    /// Gets a key, linearizably.
    pub async fn get(&mut self, key: String) -> Result<Option<Bytes>, Status> {
        let request = RangeRequest { key: key.into() };
        let response: RangeResponse = self.call("/etcdserverpb.KV/Range", request).await?;
        Ok(response.found.into_iter().next().map(|found| found.value))
    }

    async fn call<Q, A>(&mut self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let ready = self.0.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))?;
        let (path, codec) = (PathAndQuery::from_static(path), ProstCodec::default());
        Ok(self.0.unary(Request::new(request), path, codec).await?.into_inner())
    }
}
