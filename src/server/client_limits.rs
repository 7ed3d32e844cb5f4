//! Owns how much clients may have at a time: connections altogether, connections of one address, responses. It must not
//! know what a request asks for.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rejoinder_core::error::{Error, Kind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::rarely::Rarely;
use crate::config::Config;
use crate::telemetry::Metrics;

/// What a client that is refused is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// What clients may have at a time, and what they have.
pub struct ClientLimits {
    connections: Arc<Semaphore>,
    max_connections: usize,
    addresses: Arc<Addresses>,
    responses: Arc<Semaphore>,
    max_open_streams: usize,
    log: Rarely,
}

/// A place of a limit, which is free again once this is dropped.
pub type Place = OwnedSemaphorePermit;

impl ClientLimits {
    pub fn new(config: &Config) -> ClientLimits {
        let (max_connections, max_open_streams) = (config.max_connections, config.max_open_streams);
        let places = |most: usize| Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        let most = config.max_connections_per_address;
        ClientLimits {
            connections: places(max_connections),
            max_connections: max_connections.min(Semaphore::MAX_PERMITS),
            addresses: Arc::new(Addresses { most, counts: Mutex::default() }),
            responses: places(max_open_streams),
            max_open_streams,
            log: Rarely::default(),
        }
    }

    /// Waits until there may be one more connection; nobody else may accept one meanwhile.
    pub async fn room(&self, metrics: &Metrics) {
        if self.connections.available_permits() == 0 {
            self.reached("max_connections", metrics);
            let _ = self.connections.acquire().await;
        }
    }

    /// Counts a connection for which there was room.
    pub fn connection(&self) -> Option<Place> {
        self.connections.clone().try_acquire_owned().ok()
    }

    /// Connections that are open.
    pub fn open_connections(&self) -> usize {
        self.max_connections - self.connections.available_permits()
    }

    /// Counts a connection of that address; `None` where it has as many as it may.
    pub fn address(&self, address: IpAddr, metrics: &Metrics) -> Option<AddressPlace> {
        let place = self.addresses.enter(address);
        if place.is_none() {
            self.reached("max_connections_per_address", metrics);
        }
        place
    }

    /// Counts a request that a proxy sent for that address.
    ///
    /// # Errors
    /// 429 where it has as many as it may.
    pub fn forwarded(&self, address: IpAddr, metrics: &Metrics) -> Result<AddressPlace, Error> {
        self.address(address, metrics).ok_or_else(|| {
            refused("Too many requests at a time from your address (max_connections_per_address); try again later.")
        })
    }

    /// Counts a response.
    ///
    /// # Errors
    /// 429 where there are as many as there may be.
    pub fn response(&self, metrics: &Metrics) -> Result<Place, Error> {
        self.responses.clone().try_acquire_owned().map_err(|_| {
            self.reached("max_open_streams", metrics);
            let most = self.max_open_streams;
            refused(&format!(
                "This server makes {most} responses at a time (max_open_streams); try again later."
            ))
        })
    }

    fn reached(&self, limit: &'static str, metrics: &Metrics) {
        metrics.limit_reached(limit);
        if self.log.may_say(limit) {
            tracing::warn!(limit, "a limit is reached");
        }
    }
}

fn refused(message: &str) -> Error {
    let mut error = Error::new(Kind::OverCapacity, message);
    error.retry_after = Some(RETRY_AFTER);
    error
}

/// How many each address has.
struct Addresses {
    most: Option<usize>,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// What a connection or a request counts for: the number of all, and that of its address.
pub type Counted = (Option<Place>, AddressPlace);

/// A connection or request of an address, which counts until this is dropped.
pub struct AddressPlace {
    /// `None` where no number is set.
    counted: Option<Box<(Arc<Addresses>, IpAddr)>>,
}

impl AddressPlace {
    /// One that counts for nobody.
    pub const NONE: AddressPlace = AddressPlace { counted: None };
}

impl Addresses {
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<AddressPlace> {
        let Some(most) = self.most else { return Some(AddressPlace::NONE) };
        let network = network(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(network).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(AddressPlace { counted: Some(Box::new((self.clone(), network))) })
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let Some((addresses, network)) = self.counted.take().map(|counted| *counted) else { return };
        let mut counts = addresses.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&network);
            }
        }
    }
}

/// What stands for one client: an address of IPv4, the 2^64 addresses of IPv6 that a network has.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_number_of_places_and_a_network_of_ipv6_is_one() {
        let addresses = Arc::new(Addresses { most: Some(2), counts: Mutex::default() });
        let enter = |address: &str| addresses.enter(address.parse().unwrap());
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("::ffff:192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none());
        assert!(enter("192.0.2.2").is_some());
        drop(first);
        let _again = enter("192.0.2.1").unwrap();
        let _v6 = [enter("2001:db8::1").unwrap(), enter("2001:db8::2").unwrap()];
        assert!(enter("2001:db8:0:0:ffff::1").is_none());
        assert!(enter("2001:db8:0:1::1").is_some());
        drop((_again, _second, _v6));
        assert!(addresses.counts.lock().unwrap().is_empty());
    }
}
