// Processes on several machines: two network namespaces, each with a host name of its own, between
// which only a cable of the test's leads. Skipped where namespaces cannot be made.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sched.h>

#include <set>

#include "cli/mpirun.h"
#include "server/http_client.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using server::HttpClient;
using test::kSmall;
using test::Running;
using test::TempFolder;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

bool says_ok(const std::string& command) {
  return std::system((command + " >/dev/null 2>&1").c_str()) == 0;
}

// Host a with mpirun and process 0, host b with process 1. All that runs there carries the hosts'
// name in its environment, and ends with this object.
class TwoHosts {
 public:
  TwoHosts() {
    const std::string a = "ip netns add " + net('a'), b = "ip netns add " + net('b');
    made_ = says_ok(a + " && " + b) &&
            says_ok(fmt::format("ip link add {0}a netns {1} type veth peer name {0}b netns {2}",
                                name_, net('a'), net('b')));
    for (char host : {'a', 'b'})
      made_ = made_ && says_ok(fmt::format("ip -n {0} addr add 10.77.0.{1}/24 dev {2}{3} && "
                                           "ip -n {0} link set lo up && "
                                           "ip -n {0} link set {2}{3} up",
                                           net(host), host == 'a' ? 1 : 2, name_, host));
    // mpirun gives its own host's name or address, and what is to run there.
    write_script("on-a", "hostname fathom-a\nexec \"$@\"\n");
    write_script("on-b", "hostname fathom-b\nshift\nexec sh -c \"$*\"\n");
    write_script("agent", fmt::format("exec {} {} \"$@\"\n", inside('b'), scripts_.file("on-b")));
    made_ = made_ && says_ok(fmt::format("{} {} true", inside('a'), scripts_.file("on-a")));
  }
  ~TwoHosts() {
    for (pid_t p : processes()) ::kill(p, SIGKILL);
    for (char host : {'a', 'b'}) says_ok("ip netns del " + net(host));
  }
  bool made() const { return made_; }

  // `fathom ARGUMENTS`, a process on each host.
  std::string command(const std::string& arguments) const {
    return fmt::format(
        "{} {} mpirun --allow-run-as-root --host 10.77.0.1,10.77.0.2 -np 2 --map-by ppr:1:node "
        "--bind-to none --mca plm_rsh_agent {} --mca btl self,tcp {} {}",
        inside('a'), scripts_.file("on-a"), scripts_.file("agent"), FATHOM_BINARY, arguments);
  }
  void cut() const { says_ok(fmt::format("ip -n {} link set {}a down", net('a'), name_)); }

  // A client on host a.
  HttpClient client(int port) const {
    const int back = ::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    const int there = ::open(("/var/run/netns/" + net('a')).c_str(), O_RDONLY | O_CLOEXEC);
    EXPECT_EQ(::setns(there, CLONE_NEWNET), 0);
    HttpClient c(port);
    EXPECT_EQ(::setns(back, CLONE_NEWNET), 0);
    ::close(there);
    ::close(back);
    return c;
  }

  // Everything that still runs on the hosts.
  std::set<pid_t> processes() const {
    std::set<pid_t> found;
    for (const auto& entry : fs::directory_iterator("/proc")) {
      const pid_t p = std::atoi(entry.path().filename().c_str());
      if (p <= 0 || test::has_ended(p)) continue;
      std::ifstream in(entry.path() / "environ", std::ios::binary);
      const std::string variables{std::istreambuf_iterator<char>(in), {}};
      if (variables.find("FATHOM_TEST_HOSTS=" + name_) != std::string::npos) found.insert(p);
    }
    return found;
  }

 private:
  std::string net(char host) const { return name_ + "-" + host; }
  std::string inside(char host) const {
    return "ip netns exec " + net(host) + " unshare --uts env FATHOM_TEST_HOSTS=" + name_;
  }
  void write_script(const std::string& name, const std::string& body) {
    std::ofstream(scripts_.file(name)) << "#!/bin/sh\n" << body;
    fs::permissions(scripts_.file(name), fs::perms::owner_all);
  }

  const std::string name_ = fmt::format("fm{}", ::getpid());  // a link's name is short
  TempFolder scripts_;
  bool made_ = false;
};

class HostsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = test::why_no_mpirun(); !why.empty()) GTEST_SKIP() << why;
    hosts_ = std::make_unique<TwoHosts>();
    if (!hosts_->made())
      GTEST_SKIP() << "network namespaces cannot be made here (ip netns, unshare --uts; as root)";
  }

  std::unique_ptr<TwoHosts> hosts_;
};

TEST_F(HostsTest, GenerateSaysWhatOneMachineSays) {
  TempFolder folder;
  std::ofstream(folder.file("prompts")) << "Hello!\n\nCount to ten.\n";
  const std::string arguments =
      "generate --ckpt-path " + kSmall +
      " --device cpu --temperature 0 --max-new-tokens 12 --threads 2 --input-file " +
      folder.file("prompts") + " ";
  for (const char* layout : {"--tensor-parallel-size 2", "--data-parallel-size 2"}) {
    SCOPED_TRACE(layout);
    Running alone(FATHOM_BINARY + (" " + arguments) + layout);
    ASSERT_EQ(alone.wait(), 0) << alone.err();
    Running spread(hosts_->command(arguments + layout));
    ASSERT_EQ(spread.wait(), 0) << spread.err();
    EXPECT_EQ(spread.out(), alone.out());
  }
}

// Requests get their error, and everything on both hosts ends, soon after silence is noticed.
TEST_F(HostsTest, ACutCableEndsRequestsAndProgram) {
  for (const char* layout : {"--tensor-parallel-size 2", "--data-parallel-size 2"}) {
    SCOPED_TRACE(layout);
    Running r(hosts_->command("serve --ckpt-path " + kSmall +
                              " --device cpu --port 0 --max-model-len 4096 --exchange-timeout 2 " +
                              layout));
    const int port = r.port();
    std::vector<HttpClient> clients;
    for (int i = 0; i < 2; ++i) {  // in groups of ranks one goes to each host
      clients.push_back(hosts_->client(port));
      ASSERT_TRUE(clients.back().post(
          "/v1/chat/completions",
          R"({"messages":[{"role":"user","content":"Tell me a story."}],"stream":true,)"
          R"("ignore_eos":true,"max_tokens":4000})"))
          << r.err();
    }
    for (HttpClient& c : clients) ASSERT_THAT(c.read_until("data: {"), HasSubstr("200 OK"));
    const auto begin = std::chrono::steady_clock::now();
    hosts_->cut();
    for (HttpClient& c : clients) {
      const std::string rest = c.read_to_end();
      EXPECT_THAT(rest, AllOf(HasSubstr("error"), HasSubstr("has not been heard of for 2 s")));
      EXPECT_TRUE(rest.ends_with("0\r\n\r\n"));
    }
    EXPECT_GT(r.wait(20), 0);
    while (!hosts_->processes().empty() &&
           std::chrono::steady_clock::now() - begin < std::chrono::seconds(20))
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
    EXPECT_THAT(hosts_->processes(), testing::IsEmpty());
    EXPECT_THAT(r.err(), AllOf(HasSubstr("process 1 (fathom-b, pid "),
                               HasSubstr("on processors: 2 NUMA nodes in 2 machines")));
    hosts_.reset();
    hosts_ = std::make_unique<TwoHosts>();
  }
}

}  // namespace
}  // namespace fathom
