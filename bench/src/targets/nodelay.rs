//! TCP_NODELAY for clients that do not set it and cannot be told to: with it off,
//! a small request waits for the answer to the one before.

use std::{fs, io, net::SocketAddr};

use rustix::{
    net::{getpeername, sockopt::set_tcp_nodelay},
    process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
};

/// Sets it on every connection that this process has to the port.
pub(super) fn set_on_connections_to(port: u16) -> io::Result<()> {
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    for entry in fs::read_dir("/proc/self/fd")? {
        let Ok(number) = entry?.file_name().to_string_lossy().parse() else {
            continue;
        };
        // What was closed since, and what is no connection, is passed over.
        let Ok(file) = pidfd_getfd(&this, number, PidfdGetfdFlags::empty()) else {
            continue;
        };
        let Ok(Some(peer)) = getpeername(&file) else {
            continue;
        };
        if SocketAddr::try_from(peer).is_ok_and(|peer| peer.port() == port) {
            set_tcp_nodelay(&file, true)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn connections_to_the_port_send_at_once_and_others_do_not() {
        let [one, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let connect = |to: &TcpListener| TcpStream::connect(to.local_addr().unwrap()).unwrap();
        let [to_one, to_other] = [&one, &other].map(connect);
        assert!(!to_one.nodelay().unwrap());
        set_on_connections_to(one.local_addr().unwrap().port()).unwrap();
        assert!(to_one.nodelay().unwrap());
        assert!(!to_other.nodelay().unwrap());
    }
}
