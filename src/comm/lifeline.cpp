#include "comm/lifeline.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>
#include <sstream>

#include "base/error.h"
#include "comm/comm.h"

namespace fathom {
namespace {

using Clock = std::chrono::steady_clock;

// A message: a byte that says what it is, the length of a text, the text. kAlive of process 0 says
// how long it may be silent.
constexpr char kAlive = 'a', kFailed = 'f', kParting = 'p';
constexpr size_t kHead = 1 + sizeof(uint32_t);
constexpr size_t kLongestText = 16 << 10;
constexpr size_t kWordBytes = 32;

// After a failure a process answers what it still can, and ends. One that does not is ended.
constexpr std::chrono::seconds kLastSeconds{9};

std::string message_of(char kind, const std::string& text = {}) {
  const std::string cut = text.substr(0, kLongestText);
  const auto length = static_cast<uint32_t>(cut.size());
  std::string message(1, kind);
  message.append(reinterpret_cast<const char*>(&length), sizeof(length));
  return message + cut;
}

// Whether all bytes came before `until`.
bool read_all_of(int descriptor, char* to, size_t n, Clock::time_point until) {
  while (n > 0) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now());
    pollfd p{descriptor, POLLIN, 0};
    if (left.count() <= 0 || ::poll(&p, 1, static_cast<int>(left.count())) <= 0) return false;
    const ssize_t got = ::recv(descriptor, to, n, 0);
    if (got <= 0) return false;
    to += got;
    n -= static_cast<size_t>(got);
  }
  return true;
}

// This machine's addresses, those that others reach first.
std::vector<std::string> own_addresses(bool local) {
  if (local) return {"127.0.0.1"};
  std::vector<std::string> found;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return found;
  for (const ifaddrs* at = list; at; at = at->ifa_next) {
    if (!at->ifa_addr || !(at->ifa_flags & IFF_UP) || (at->ifa_flags & IFF_LOOPBACK)) continue;
    if (at->ifa_addr->sa_family != AF_INET) continue;
    char text[INET_ADDRSTRLEN];
    const auto* address = reinterpret_cast<const sockaddr_in*>(at->ifa_addr);
    if (::inet_ntop(AF_INET, &address->sin_addr, text, sizeof(text))) found.emplace_back(text);
  }
  ::freeifaddrs(list);
  return found;
}

sockaddr_in address_of(const std::string& text, int port) {
  sockaddr_in a{};
  a.sin_family = AF_INET;
  a.sin_port = htons(static_cast<uint16_t>(port));
  ::inet_pton(AF_INET, text.c_str(), &a.sin_addr);
  return a;
}

void send_without_delay(int descriptor) {
  const int on = 1;
  ::setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

// -1 when it does not answer within a few seconds.
int connect_to(const std::string& address, int port) {
  const int descriptor = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (descriptor < 0) return -1;
  const sockaddr_in a = address_of(address, port);
  int error = 0;
  if (::connect(descriptor, reinterpret_cast<const sockaddr*>(&a), sizeof(a)) != 0) error = errno;
  if (error == EINPROGRESS) {
    pollfd p{descriptor, POLLOUT, 0};
    socklen_t size = sizeof(error);
    if (::poll(&p, 1, 3000) != 1 ||
        ::getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &error, &size) != 0)
      error = ETIMEDOUT;
  }
  if (error == 0) return descriptor;
  ::close(descriptor);
  return -1;
}

}  // namespace

LifelineDoor::LifelineDoor(bool local) {
  descriptor_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in a = address_of(local ? "127.0.0.1" : "0.0.0.0", 0);
  socklen_t size = sizeof(a);
  if (descriptor_ < 0 || ::bind(descriptor_, reinterpret_cast<sockaddr*>(&a), sizeof(a)) != 0 ||
      ::listen(descriptor_, 64) != 0 ||
      ::getsockname(descriptor_, reinterpret_cast<sockaddr*>(&a), &size) != 0)
    fail("cannot wait for the connections of the other processes: {}", std::strerror(errno));
  std::random_device random;
  while (word_.size() < kWordBytes) word_ += fmt::format("{:08x}", random());
  invitation_ =
      fmt::format("{} {} {}", ntohs(a.sin_port), word_, fmt::join(own_addresses(local), " "));
}

LifelineDoor::~LifelineDoor() { ::close(descriptor_); }

std::vector<int> LifelineDoor::accept(int processes, std::chrono::seconds patience) {
  std::vector<int> connections(static_cast<size_t>(processes), -1);
  const auto until = Clock::now() + patience;
  for (int missing = processes - 1; missing > 0;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now());
    pollfd p{descriptor_, POLLIN, 0};
    if (left.count() <= 0 || ::poll(&p, 1, static_cast<int>(left.count())) < 0) {
      for (int c : connections)
        if (c >= 0) ::close(c);
      fail(
          "{} of {} processes did not connect to process 0 within {} s: a firewall between the "
          "machines must let them through",
          missing, processes - 1, patience.count());
    }
    const int c = ::accept4(descriptor_, nullptr, nullptr, SOCK_CLOEXEC);
    if (c < 0) continue;
    // Whoever does not know the word is no process of this run.
    char said[kWordBytes];
    uint32_t process = 0;
    const auto soon = std::min(until, Clock::now() + std::chrono::seconds(2));
    if (!read_all_of(c, said, sizeof(said), soon) || std::string(said, sizeof(said)) != word_ ||
        !read_all_of(c, reinterpret_cast<char*>(&process), sizeof(process), soon) || process == 0 ||
        process >= connections.size() || connections[process] >= 0) {
      ::close(c);
      continue;
    }
    connections[process] = c;
    --missing;
  }
  return connections;
}

int connect_lifeline(const std::string& invitation, int process) {
  std::istringstream in(invitation);
  int port = 0;
  std::string word, address;
  in >> port >> word;
  std::vector<std::string> tried;
  while (in >> address) {
    const int c = connect_to(address, port);
    tried.push_back(address);
    if (c < 0) continue;
    word.append(reinterpret_cast<const char*>(&process), sizeof(process));
    if (::send(c, word.data(), word.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(word.size()))
      return c;
    ::close(c);
  }
  fail(
      "process {} cannot connect to process 0, port {} of {}: a firewall between the machines "
      "must let it through",
      process, port, fmt::join(tried, ", "));
}

Lifeline::Lifeline(int process, std::vector<std::string> names, std::vector<int> connections)
    : process_(process),
      names_(std::move(names)),
      wake_(::eventfd(0, EFD_CLOEXEC)),
      peers_(connections.size()) {
  for (size_t p = 0; p < peers_.size(); ++p) {
    peers_[p].descriptor = connections[p];
    peers_[p].heard = Clock::now();
    if (connections[p] >= 0) send_without_delay(connections[p]);
  }
  thread_ = std::thread([this] { watch(); });
}

Lifeline::~Lifeline() {
  stop_ = true;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(wake_, &one, sizeof(one));
  thread_.join();
  for (const Peer& p : peers_)
    if (p.descriptor >= 0) ::close(p.descriptor);
  ::close(wake_);
}

void Lifeline::watch() {
  while (!stop_) {
    std::vector<pollfd> polled{{wake_, POLLIN, 0}};
    std::vector<size_t> processes{0};
    {
      std::lock_guard lock(mutex_);
      for (size_t p = 0; p < peers_.size(); ++p)
        if (peers_[p].descriptor >= 0) {
          polled.push_back({peers_[p].descriptor, POLLIN, 0});
          processes.push_back(p);
        }
    }
    const auto period = std::chrono::duration<double>(std::clamp(timeout_ / 5, 0.02, 1.0));
    const auto before = Clock::now();
    ::poll(polled.data(), polled.size(), static_cast<int>(period.count() * 1000));
    if (stop_) return;
    for (size_t i = 1; i < polled.size(); ++i)
      if (polled[i].revents != 0) read_from(processes[i]);
    // Where this process itself was stopped for a while it has heard nobody.
    look_for_silence(Clock::now() - before > 2 * period + std::chrono::milliseconds(100));
    say_alive();
  }
}

void Lifeline::set_timeout(double seconds) {
  timeout_ = seconds;
  say_alive();
}

void Lifeline::say_alive() {
  say(message_of(kAlive, process_ == 0 ? fmt::format("{}", timeout_.load()) : ""), -1);
}

void Lifeline::read_from(size_t process) {
  char block[4096];
  int descriptor = -1;
  {
    std::lock_guard lock(mutex_);
    descriptor = peers_[process].descriptor;
  }
  const ssize_t n = ::recv(descriptor, block, sizeof(block), MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) return hung_up(process);
  {
    std::lock_guard lock(mutex_);
    peers_[process].heard = Clock::now();
    peers_[process].received.append(block, static_cast<size_t>(n));
  }
  take_messages(process);
}

void Lifeline::take_messages(size_t process) {
  for (;;) {
    std::string text;
    {
      std::lock_guard lock(mutex_);
      std::string& received = peers_[process].received;
      uint32_t length = 0;
      if (received.size() < kHead) return;
      std::memcpy(&length, received.data() + 1, sizeof(length));
      if (received.size() < kHead + length) return;
      const char kind = received[0];
      text = received.substr(kHead, length);
      received.erase(0, kHead + length);
      if (kind == kParting) peers_[process].parted = true;
      if (kind == kAlive && process_ != 0) timeout_ = std::stod(text);
      if (kind != kFailed) continue;
    }
    fail(text, static_cast<int>(process));
  }
}

void Lifeline::hung_up(size_t process) {
  bool expected = false;
  {
    std::lock_guard lock(mutex_);
    Peer& p = peers_[process];
    ::close(p.descriptor);
    p.descriptor = -1;
    expected = p.parted || parting_;
    changed_.notify_all();
  }
  if (!expected) fail(fmt::format("{} has ended", names_[process]), -1);
}

void Lifeline::look_for_silence(bool we_slept) {
  std::string lost;
  const double timeout = timeout_;
  {
    std::lock_guard lock(mutex_);
    const auto now = Clock::now();
    if (failed_ && now - failed_at_ > kLastSeconds) {
      fmt::print(stderr, "fathom: {}: this process does not end by itself and is ended\n", why_);
      ::_exit(1);
    }
    for (size_t p = 0; p < peers_.size(); ++p) {
      if (peers_[p].descriptor < 0) continue;
      if (we_slept) peers_[p].heard = now;
      if (std::chrono::duration<double>(now - peers_[p].heard).count() > timeout && !parting_)
        lost = fmt::format("{} has not been heard of for {:.3g} s", names_[p], timeout);
    }
  }
  if (lost.empty()) return;
  if (!failed_) heard_silence_ = true;
  fail(lost, -1);
}

void Lifeline::fail(const std::string& why, int told_by) {
  {
    std::lock_guard lock(mutex_);
    if (failed_) return;
    why_ = why;
    failed_at_ = Clock::now();
    failed_.store(true, std::memory_order_release);
  }
  say(message_of(kFailed, why), told_by);
  std::lock_guard lock(call_mutex_);
  call_once_known();
}

// Under call_mutex_.
void Lifeline::call_once_known() {
  if (!call_ || called_ || !failed_) return;
  called_ = true;
  call_(failure());
}

// A full buffer belongs to a process that reads nothing any more: it is lost either way.
void Lifeline::say(const std::string& message, int except) {
  std::lock_guard lock(mutex_);
  for (size_t p = 0; p < peers_.size(); ++p)
    if (peers_[p].descriptor >= 0 && static_cast<int>(p) != except)
      ::send(peers_[p].descriptor, message.data(), message.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

std::string Lifeline::failure() const {
  std::lock_guard lock(mutex_);
  return why_;
}

void Lifeline::throw_failure() const { throw ExchangeEnded(failure()); }

void Lifeline::on_failure(std::function<void(const std::string&)> call) {
  std::lock_guard lock(call_mutex_);
  call_ = std::move(call);
  called_ = false;
  call_once_known();
}

void Lifeline::part() {
  parting_ = true;
  say(message_of(kParting), -1);
}

void Lifeline::await_hang_up(std::chrono::seconds at_most) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, at_most, [&] { return peers_[0].descriptor < 0; });
}

}  // namespace fathom
