//! A server and its clients over loopback: what does a request cost where each connection has somebody of its own?
//!
//! Connections are kept for a number of requests, also so that a run does not use up the ports of the machine.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
};

use async_io::block_on;
use criterion::Criterion;
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
use tassel::scope;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
};

use crate::{
    common::{Race, group},
    runtimes::{smol, tokio},
};

const CONNECTIONS: u64 = 50;
const REQUESTS: u64 = 20;
const ANY_PORT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = group(c, "requests");
    Race::new(CONNECTIONS * REQUESTS * (REQUESTS + 1) / 2)
        .elements(CONNECTIONS * REQUESTS)
        .program("tassel", || by_tassel().expect("nobody fails"))
        .program("std", || by_std().expect("nobody fails"))
        .program("tokio tasks", || by_tokio().expect("nobody fails"))
        .program("smol tasks", || by_smol().expect("nobody fails"))
        .run(&mut group, format!("{CONNECTIONS} x {REQUESTS}"));
    group.finish();
}

/// A read of a socket is a wait that the pool does not see, so the jobs have threads of their own.
fn by_tassel() -> tassel::Result<u64> {
    let listener = TcpListener::bind(ANY_PORT)?;
    let address = listener.local_addr()?;
    let sum = scope(|s| {
        s.job("accept").own_thread().spawn(move || {
            for _ in 0..CONNECTIONS {
                let (stream, _) = listener.accept()?;
                s.job("serve").own_thread().spawn(move || Ok(serve(stream)?));
            }
            Ok(())
        });
        let client = |_| s.job("ask").own_thread().spawn(move || Ok(ask(address)?));
        let clients: Vec<_> = (0..CONNECTIONS).map(client).collect();
        let mut sum = 0;
        for client in clients {
            sum += client.join()?;
        }
        Ok(sum)
    });
    Ok(sum?)
}

fn by_std() -> io::Result<u64> {
    let listener = TcpListener::bind(ANY_PORT)?;
    let address = listener.local_addr()?;
    thread::scope(|s| {
        s.spawn(move || {
            for _ in 0..CONNECTIONS {
                let (stream, _) = listener.accept().expect("a connection");
                s.spawn(move || serve(stream).expect("a client"));
            }
        });
        let clients: Vec<_> = (0..CONNECTIONS).map(|_| s.spawn(move || ask(address))).collect();
        clients.into_iter().map(|client| client.join().expect("no job panics")).sum()
    })
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = [0; 8];
    for _ in 0..REQUESTS {
        stream.read_exact(&mut request)?;
        stream.write_all(&answer(request))?;
    }
    Ok(())
}

fn ask(address: SocketAddr) -> io::Result<u64> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let (mut sum, mut answer) = (0, [0; 8]);
    for n in 0..REQUESTS {
        stream.write_all(&n.to_be_bytes())?;
        stream.read_exact(&mut answer)?;
        sum += u64::from_be_bytes(answer);
    }
    Ok(sum)
}

fn answer(request: [u8; 8]) -> [u8; 8] {
    (u64::from_be_bytes(request) + 1).to_be_bytes()
}

fn by_tokio() -> io::Result<u64> {
    async fn serve(mut stream: tokio::net::TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut request = [0; 8];
        for _ in 0..REQUESTS {
            stream.read_exact(&mut request).await?;
            stream.write_all(&answer(request)).await?;
        }
        Ok(())
    }

    async fn ask(address: SocketAddr) -> io::Result<u64> {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (mut sum, mut answer) = (0, [0; 8]);
        for n in 0..REQUESTS {
            stream.write_all(&n.to_be_bytes()).await?;
            stream.read_exact(&mut answer).await?;
            sum += u64::from_be_bytes(answer);
        }
        Ok(sum)
    }

    tokio().block_on(async {
        let listener = tokio::net::TcpListener::bind(ANY_PORT).await?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            for _ in 0..CONNECTIONS {
                let (stream, _) = listener.accept().await.expect("a connection");
                connections.spawn(serve(stream));
            }
            connections.join_all().await.into_iter().collect::<io::Result<()>>()
        });
        let mut clients = JoinSet::new();
        for _ in 0..CONNECTIONS {
            clients.spawn(ask(address));
        }
        let sum = clients.join_all().await.into_iter().sum();
        server.await.expect("no task panics")?;
        sum
    })
}

fn by_smol() -> io::Result<u64> {
    async fn serve(mut stream: async_net::TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut request = [0; 8];
        for _ in 0..REQUESTS {
            stream.read_exact(&mut request).await?;
            stream.write_all(&answer(request)).await?;
        }
        Ok(())
    }

    async fn ask(address: SocketAddr) -> io::Result<u64> {
        let mut stream = async_net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (mut sum, mut answer) = (0, [0; 8]);
        for n in 0..REQUESTS {
            stream.write_all(&n.to_be_bytes()).await?;
            stream.read_exact(&mut answer).await?;
            sum += u64::from_be_bytes(answer);
        }
        Ok(sum)
    }

    block_on(async {
        let listener = async_net::TcpListener::bind(ANY_PORT).await?;
        let address = listener.local_addr()?;
        let server = smol().spawn(async move {
            let mut connections = Vec::new();
            for _ in 0..CONNECTIONS {
                let (stream, _) = listener.accept().await?;
                connections.push(smol().spawn(serve(stream)));
            }
            for connection in connections {
                connection.await?;
            }
            Ok(())
        });
        let clients: Vec<_> = (0..CONNECTIONS).map(|_| smol().spawn(ask(address))).collect();
        let mut sum = 0;
        for client in clients {
            sum += client.await?;
        }
        server.await.map(|()| sum)
    })
}
