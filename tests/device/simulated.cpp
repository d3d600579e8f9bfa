// A CUDA device without one. Its tensors say cuda:0, are tensors of torch's own kind with autograd and autocast as for
// CUDA, lie in host memory, and every kernel that is asked for on them is the CPU's: one boxed fallback hands the CPU
// aliases of the tensors and wraps what comes back. What cuDNN has of its own (recurrent layers) is written below.
// Launches are counted; synchronisations, copies and nondeterministic kernels are reported to Python with their names.

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/RNN.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <unordered_map>

namespace {

using at::Tensor;
using c10::DispatchKey, c10::DispatchKeySet, c10::IValue, c10::Storage, c10::StorageImpl;

const c10::Device kDevice(c10::DeviceType::CUDA, 0);

// ------------------------------------------------------------------------------------------- what torch asks a device

struct Guard : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  c10::Device getDevice() const override { return kDevice; }
  c10::Stream getStream(c10::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, kDevice); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, kDevice); }
};
c10::impl::DeviceGuardImplRegistrar guard(c10::DeviceType::CUDA, new Guard());

struct Hooks : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool hasCuDNN() const override { return true; }
  bool compiledWithCuDNN() const override { return true; }
  bool supportsBFloat16RNNWithCuDNN() const override { return true; }
  long versionCuDNN() const override { return 90000; }
  double batchnormMinEpsilonCuDNN() const override { return 1e9; }  // batch norm by torch's own kernels
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  int getNumGPUs() const override { return 1; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex current_device() const override { return 0; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  void deviceSynchronize(c10::DeviceIndex) const override {}
};

// ------------------------------------------------------------------------------------------------------------- counts

using Report = void (*)(const char* kind, const char* op, long bytes);
Report report = nullptr;
std::mutex counting;
std::map<std::string, long> launches;
thread_local bool quiet = false;  // inside a kernel of ours: what it does is one launch, counted already

struct Quiet {
  bool before = quiet;
  Quiet() { quiet = true; }
  ~Quiet() { quiet = before; }
};

void launched(const std::string& op) {
  if (quiet) return;
  std::lock_guard<std::mutex> lock(counting);
  ++launches[op];
}

void tell(const char* kind, const std::string& op, long bytes = 0) {
  if (!quiet && report) report(kind, op.c_str(), bytes);
}

// -------------------------------------------------------------------------------- memory: every storage has a host twin

std::mutex pairing;
auto& twins = *new std::unordered_map<const StorageImpl*, c10::weak_intrusive_ptr<StorageImpl>>();  // by their host's

void forget(void* context) {
  auto* host = static_cast<Storage*>(context);
  {
    std::lock_guard<std::mutex> lock(pairing);
    auto found = twins.find(host->unsafeGetStorageImpl());
    if (found != twins.end() && found->second.expired()) twins.erase(found);
  }
  delete host;
}

Storage& host_of(const Storage& storage) { return *static_cast<Storage*>(storage.data_ptr().get_context()); }

Storage device_of(const Storage& host) {
  std::lock_guard<std::mutex> lock(pairing);
  auto found = twins.find(host.unsafeGetStorageImpl());
  if (found != twins.end()) {
    if (auto alive = found->second.lock()) return Storage(alive);
    twins.erase(found);
  }
  c10::DataPtr memory(host.mutable_data(), new Storage(host), &forget, kDevice);
  auto made = c10::make_intrusive<StorageImpl>(
      StorageImpl::use_byte_size_t(), host.nbytes(), std::move(memory), nullptr, /*resizable=*/false);
  twins.emplace(host.unsafeGetStorageImpl(), c10::weak_intrusive_ptr<StorageImpl>(made));
  return Storage(made);
}

Tensor over(const Storage& storage, DispatchKey key, const Tensor& like) {
  auto made = at::detail::make_tensor<c10::TensorImpl>(Storage(storage), DispatchKeySet(key), like.dtype());
  made.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  return made;
}

Tensor to_host(const Tensor& t) { return t.defined() ? over(host_of(t.storage()), DispatchKey::CPU, t) : t; }
Tensor to_device(const Tensor& t) { return t.defined() ? over(device_of(t.storage()), DispatchKey::CUDA, t) : t; }

// What a kernel did to the alias of a tensor other than writing values: another size, more memory, another storage.
void follow(const Tensor& t, const Tensor& alias) {
  auto* impl = t.unsafeGetTensorImpl();
  if (host_of(t.storage()).unsafeGetStorageImpl() != alias.storage().unsafeGetStorageImpl())
    impl->set_storage_keep_dtype(device_of(alias.storage()));
  auto* storage = t.storage().unsafeGetStorageImpl();
  if (storage->data() != alias.storage().data() || storage->nbytes() != alias.storage().nbytes()) {
    auto* context = storage->_mutable_data_ptr_no_checks().release_context();
    storage->set_data_ptr_noswap(c10::DataPtr(alias.storage().mutable_data(), context, &forget, kDevice));
    storage->set_nbytes(alias.storage().nbytes());
  }
  if (t.sizes() != alias.sizes() || t.strides() != alias.strides() || t.storage_offset() != alias.storage_offset())
    impl->set_sizes_and_strides(alias.sizes(), alias.strides(), alias.storage_offset());
}

// ---------------------------------------------------------------------------------------------------------- all kernels

const std::set<std::string> kSynchronise = {
    "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount",
    "equal", "is_nonzero", "_linalg_eigh", "_linalg_svd", "linalg_eigh"};
// torch's list (torch.use_deterministic_algorithms), without those that cuDNN's own flag makes deterministic
const std::set<std::string> kNondeterministic = {
    "index_add", "index_add_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_", "index_reduce",
    "index_reduce_", "put_", "histc", "kthvalue", "median", "_embedding_bag_dense_backward", "_embedding_bag_backward",
    "upsample_bilinear2d_backward", "upsample_nearest2d_backward", "reflection_pad2d_backward",
    "replication_pad2d_backward", "grid_sampler_2d_backward", "_adaptive_avg_pool2d_backward",
    "adaptive_max_pool2d_backward", "avg_pool3d_backward", "max_pool3d_with_indices_backward"};
const std::set<std::string> kNoLaunch = {"empty", "empty_strided", "resize_", "set_", "record_stream", "lift_fresh"};
// kernels that take no tensor of the host beside one of the device, be it a number (0 dimensions) or not
const std::set<std::string> kStrict = {"cat", "gather", "scatter", "mm", "addmm", "bmm", "index_select", "embedding",
                                       "searchsorted", "native_layer_norm", "convolution"};

const std::set<std::string> kIndexed = {"index", "index_put", "index_put_", "_index_put_impl_"};

bool is_mask(const Tensor& t) {
  return t.defined() && (t.scalar_type() == at::kBool || t.scalar_type() == at::kByte);
}

void count(const c10::OperatorHandle& op, const std::string& name, const std::vector<Tensor>& device,
           const torch::jit::Stack& arguments) {
  const auto& returns = op.schema().returns();
  bool view = !returns.empty() && returns[0].alias_info() && !returns[0].alias_info()->isWrite();
  if (view || kNoLaunch.count(name)) return;
  if (kSynchronise.count(name)) tell("sync", name);
  if (name == "_local_scalar_dense") return;
  launched(name);
  if (name == "repeat_interleave" && arguments.back().isNone()) tell("sync", name);
  // a mask becomes numbers, whose count the host has to know; for `index` torch itself asks for them by `nonzero`
  if (kIndexed.count(name) && name != "index") {
    int masks = 0, indices = 0;
    for (const auto& index : arguments[1].toListRef()) {
      indices += !index.isNone();
      masks += !index.isNone() && is_mask(index.toTensor());
    }
    bool filled = masks == 1 && indices == 1 && arguments[2].toTensor().numel() == 1;
    if (masks && !(filled && !arguments[3].toBool())) tell("sync", name + " by a mask");
  }
  bool nondeterministic = kNondeterministic.count(name);
  if (name == "cumsum" && device[0].is_floating_point())  // of one row: sums are looked back for, in no fixed order
    nondeterministic = device[0].numel() > 1 && device[0].numel() == device[0].size(arguments[1].toInt());
  if (name == "convolution_backward") nondeterministic = !at::globalContext().deterministicCuDNN();
  if (nondeterministic) tell("nondeterministic", name);
}

void simulate(const c10::OperatorHandle& op, DispatchKeySet, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const std::string name = schema.name().substr(schema.name().find("::") + 2);
  std::vector<Tensor> device, aliases, host;
  auto take = [&](const Tensor& t) {
    if (!t.defined() || !t.is_cuda()) {
      if (t.defined()) host.push_back(t);
      return t;
    }
    device.push_back(t);
    aliases.push_back(to_host(t));
    return aliases.back();
  };
  const size_t first = stack->size() - schema.arguments().size();
  const torch::jit::Stack given(stack->begin() + first, stack->end());
  for (size_t i = first; i < stack->size(); ++i) {
    IValue& value = (*stack)[i];
    if (value.isTensor()) {
      value = take(value.toTensor());
    } else if (value.isTensorList()) {
      std::vector<Tensor> taken;
      for (const Tensor& t : value.toTensorVector()) taken.push_back(take(t));
      value = taken;
    } else if (value.isList() && value.toList().elementType()->kind() == c10::TypeKind::OptionalType) {
      c10::List<std::optional<Tensor>> taken;
      for (const IValue& t : value.toListRef())
        taken.push_back(t.isNone() ? std::optional<Tensor>() : std::optional<Tensor>(take(t.toTensor())));
      value = taken;
    } else if (value.isStorage() && value.toStorage().device().is_cuda()) {
      value = host_of(value.toStorage());
    } else if (value.isDevice()) {
      value = c10::Device(c10::kCPU);
    }
  }
  const bool indexed = kIndexed.count(name) && given[0].toTensor().is_cuda();
  for (const Tensor& t : host) {
    if (device.empty()) break;
    if (indexed && t.scalar_type() == at::kLong) {  // the one tensor of the host that goes along: it is copied
      tell("to device", name, static_cast<long>(t.nbytes()));
      continue;
    }
    TORCH_CHECK(t.dim() == 0 && !kStrict.count(name),
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! (",
                name, " got a tensor of the host with shape ", t.sizes(), ")");
  }
  count(op, name, device, given);
  op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), stack);
  for (size_t i = 0; i < device.size(); ++i) follow(device[i], aliases[i]);
  auto back = [&](const Tensor& t) {
    if (!t.defined() || !t.is_cpu()) return t;
    for (size_t i = 0; i < aliases.size(); ++i) {
      if (t.is_same(aliases[i])) return device[i];
      if (t.storage().is_alias_of(aliases[i].storage())) {
        c10::InferenceMode as_its_base(device[i].is_inference());
        return to_device(t);
      }
    }
    return to_device(t);
  };
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); ++i) {
    IValue& value = (*stack)[i];
    if (value.isTensor()) {
      value = back(value.toTensor());
    } else if (value.isTensorList()) {
      std::vector<Tensor> made;
      for (const Tensor& t : value.toTensorVector()) made.push_back(back(t));
      value = made;
    }
  }
}

// The one kernel between host and device. From the device it waits; to the device it is a copy, counted as such.
Tensor& copy(Tensor& self, const Tensor& source, bool) {
  const long bytes = source.numel() * source.element_size();
  if (!source.is_cuda()) {
    tell("to device", "copy_", bytes);
  } else if (!self.is_cuda()) {
    tell("from device", "copy_", bytes);
    tell("sync", "copy_ to the host");
  } else {
    launched("copy_");
  }
  Tensor to = self.is_cuda() ? to_host(self) : self, from = source.is_cuda() ? to_host(source) : source;
  at::AutoDispatchBelowAutograd below;
  to.copy_(from);
  return self;
}

// --------------------------------------------------------------------------------------------- recurrent layers (cuDNN)

// Which of cuDNN's modes: torch's numbers.
enum Mode { kLstm = 2, kGru = 3 };

std::vector<Tensor> run_layers(int64_t mode, const Tensor& x, const Tensor& hx, const Tensor& cx,
                               const std::vector<Tensor>& weights, bool batch_first) {
  const auto layers = static_cast<int64_t>(weights.size()) / 4;
  if (mode == kLstm) {
    auto [out, h, c] = at::lstm(x, {hx, cx}, weights, true, layers, 0.0, true, false, batch_first);
    return {out, h, c};
  }
  auto [out, h] = at::gru(x, hx, weights, true, layers, 0.0, true, false, batch_first);
  return {out, h};
}

// A detached float32 copy on the host, whose gradient can be taken: half precision is computed in float32, and rounded.
Tensor leaf(const Tensor& t) { return t.defined() ? to_host(t.detach()).to(at::kFloat).clone().requires_grad_() : t; }

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> cudnn_rnn(
    const Tensor& input, at::TensorList weight, int64_t, const std::optional<Tensor>&, const Tensor& hx,
    const std::optional<Tensor>& cx, int64_t mode, int64_t, int64_t, int64_t, bool batch_first, double, bool, bool,
    at::IntArrayRef, const std::optional<Tensor>&) {
  launched("_cudnn_rnn");
  Quiet once;
  at::NoGradGuard no_grad;
  std::vector<Tensor> weights;
  for (const Tensor& w : weight) {
    TORCH_CHECK(w.scalar_type() == input.scalar_type(), "cuDNN: input is ", input.scalar_type(), ", weights are ",
                w.scalar_type());
    weights.push_back(leaf(w));
  }
  auto ends = run_layers(mode, leaf(input), leaf(hx), leaf(cx.value_or(Tensor())), weights, batch_first);
  for (Tensor& end : ends) end = to_device(end.detach().to(input.scalar_type()));
  auto none = [&] { return at::empty({0}, input.options()); };
  return {ends[0], ends[1], ends.size() > 2 ? ends[2] : none(), none(), none()};
}

std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> cudnn_rnn_backward(
    const Tensor& input, at::TensorList weight, int64_t, const Tensor&, const Tensor& hx,
    const std::optional<Tensor>& cx, const Tensor&, const std::optional<Tensor>& grad_output,
    const std::optional<Tensor>& grad_hy, const std::optional<Tensor>& grad_cy, int64_t mode, int64_t,
    int64_t, int64_t, bool batch_first, double, bool train, bool, at::IntArrayRef, const std::optional<Tensor>&, const Tensor&,
    std::array<bool, 4> wanted) {
  TORCH_CHECK(train, "cudnn RNN backward can only be called in training mode");
  launched("_cudnn_rnn_backward");
  Quiet once;
  // a kernel stands below autograd, which is wanted here for what the CPU computes
  c10::impl::ForceDispatchKeyGuard from_the_top(c10::impl::LocalDispatchKeySet(c10::impl::PODLocalDispatchKeySet{}));
  at::AutoGradMode grad(true);
  std::vector<Tensor> leaves{leaf(input), leaf(hx)}, weights;
  const bool cell = mode == kLstm;
  if (cell) leaves.push_back(leaf(*cx));
  for (const Tensor& w : weight) weights.push_back(leaf(w));
  auto ends = run_layers(mode, leaves[0], leaves[1], cell ? leaves[2] : Tensor(), weights, batch_first);
  leaves.insert(leaves.end(), weights.begin(), weights.end());
  Tensor sum = at::zeros({});
  const std::optional<Tensor> grads[] = {grad_output, grad_hy, grad_cy};
  for (size_t i = 0; i < ends.size(); ++i)
    if (grads[i] && grads[i]->defined()) sum = sum + (ends[i] * to_host(*grads[i]).to(at::kFloat)).sum();
  sum.backward({}, false, false, leaves);
  std::vector<Tensor> found;
  for (size_t i = 0; i < leaves.size(); ++i)
    found.push_back(to_device(leaves[i].grad().detach().to(input.scalar_type())));
  const size_t states = cell ? 3 : 2;
  return {found[0], found[1], cell ? found[2] : Tensor(), {found.begin() + states, found.end()}};
}

// torch's own wrapper: whatever autocast was asked for, cuDNN's recurrent layers run in half precision.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> cudnn_rnn_autocast(
    const Tensor& input, at::TensorList weight, int64_t stride, const std::optional<Tensor>& buffer, const Tensor& hx,
    const std::optional<Tensor>& cx, int64_t mode, int64_t hidden, int64_t projected, int64_t layers, bool batch_first,
    double dropout, bool train, bool bidirectional, at::IntArrayRef sizes, const std::optional<Tensor>& dropout_state) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(DispatchKey::Autocast);
  std::vector<Tensor> weights;
  for (const Tensor& w : weight) weights.push_back(w.to(at::kHalf));
  std::optional<Tensor> cell;
  if (cx && cx->defined()) cell = cx->to(at::kHalf);
  return at::_cudnn_rnn(input.to(at::kHalf), weights, stride, buffer, hx.to(at::kHalf), cell, mode, hidden, projected,
                        layers, batch_first, dropout, train, bidirectional, sizes, dropout_state);
}

std::tuple<Tensor, Tensor, Tensor> layers_by_cudnn(int64_t mode, const Tensor& x, const Tensor& hx, const Tensor& cx,
                                                   at::TensorList weights, double dropout, bool train,
                                                   bool bidirectional, bool batch_first) {
  for (const Tensor& w : weights)
    if (!w.storage().is_alias_of(weights[0].storage())) {
      TORCH_WARN("RNN module weights are not part of single contiguous chunk of memory");
      break;
    }
  auto [out, h, c, reserve, buffer] =
      at::_cudnn_rnn(x, weights, 4, {}, hx, cx.defined() ? std::optional<Tensor>(cx) : std::nullopt, mode,
                     hx.size(2), 0, static_cast<int64_t>(weights.size()) / 4, batch_first, dropout, train, bidirectional,
                     {}, {});
  return {out, h, c};
}

void lstm_by_cudnn(Tensor& out, Tensor& hy, Tensor& cy, const Tensor& x, at::TensorList hx, at::TensorList weights,
                   bool, int64_t, double dropout, bool train, bool bidirectional, bool batch_first) {
  std::tie(out, hy, cy) =
      layers_by_cudnn(kLstm, x, hx[0], hx[1], weights, dropout, train, bidirectional, batch_first);
}

void gru_by_cudnn(Tensor& out, Tensor& hy, const Tensor& x, const Tensor& hx, at::TensorList weights, bool, int64_t,
                  double dropout, bool train, bool bidirectional, bool batch_first) {
  Tensor none;
  std::tie(out, hy, none) =
      layers_by_cudnn(kGru, x, hx, Tensor(), weights, dropout, train, bidirectional, batch_first);
}

// The weights laid into one chunk of memory, each still itself.
Tensor flatten_weight(at::TensorList weights, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, bool, bool) {
  Quiet once;
  std::vector<Tensor> flat;
  for (const Tensor& w : weights) flat.push_back(to_host(w).reshape(-1));
  Tensor chunk = to_device(at::cat(flat));
  int64_t begin = 0;
  for (const Tensor& w : weights) {
    w.unsafeGetTensorImpl()->set_storage_keep_dtype(chunk.storage());
    w.unsafeGetTensorImpl()->set_sizes_contiguous(w.sizes());
    w.unsafeGetTensorImpl()->set_storage_offset(begin);
    begin += w.numel();
  }
  return chunk;
}

// ---------------------------------------------------- recurrent layers without cuDNN: a fused kernel for every time step

using Maybe = std::optional<Tensor>;

Tensor biased(const Tensor& gates, const Maybe& bias) { return bias && bias->defined() ? gates + *bias : gates; }

std::tuple<Tensor, Tensor> gru_cell(const Tensor& input, const Tensor& hidden, const Tensor& hx, const Maybe& bias_i,
                                    const Maybe& bias_h) {
  launched("_thnn_fused_gru_cell");
  Quiet once;
  auto i = biased(input, bias_i).chunk(3, 1), h = biased(hidden, bias_h).chunk(3, 1);
  auto r = (i[0] + h[0]).sigmoid(), u = (i[1] + h[1]).sigmoid(), n = (i[2] + r * h[2]).tanh();
  return {n + u * (hx - n), at::cat({r, u, n, hx, h[2]}, 1)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gru_cell_backward(const Tensor& grad, const Tensor& workspace,
                                                                     bool has_bias) {
  launched("_thnn_fused_gru_cell_backward");
  Quiet once;
  auto w = workspace.chunk(5, 1);
  auto &r = w[0], &u = w[1], &n = w[2], &hx = w[3], &h_n = w[4];
  auto d_n = grad * (1 - u) * (1 - n * n), d_u = grad * (hx - n) * u * (1 - u), d_r = d_n * h_n * r * (1 - r);
  auto d_input = at::cat({d_r, d_u, d_n}, 1), d_hidden = at::cat({d_r, d_u, d_n * r}, 1);
  return {d_input, d_hidden, grad * u, has_bias ? d_input.sum(0) : Tensor(), has_bias ? d_hidden.sum(0) : Tensor()};
}

std::tuple<Tensor, Tensor, Tensor> lstm_cell(const Tensor& input, const Tensor& hidden, const Tensor& cx,
                                             const Maybe& bias_i, const Maybe& bias_h) {
  launched("_thnn_fused_lstm_cell");
  Quiet once;
  auto gates = (biased(input, bias_i) + biased(hidden, bias_h)).chunk(4, 1);
  auto i = gates[0].sigmoid(), f = gates[1].sigmoid(), g = gates[2].tanh(), o = gates[3].sigmoid();
  auto c = f * cx + i * g;
  return {o * c.tanh(), c, at::cat({i, f, g, o}, 1)};
}

std::tuple<Tensor, Tensor, Tensor> lstm_cell_backward(const Maybe& grad_hy, const Maybe& grad_cy, const Tensor& cx,
                                                      const Tensor& cy, const Tensor& workspace, bool has_bias) {
  launched("_thnn_fused_lstm_cell_backward");
  Quiet once;
  auto w = workspace.chunk(4, 1);
  auto &i = w[0], &f = w[1], &g = w[2], &o = w[3];
  auto d_h = grad_hy && grad_hy->defined() ? *grad_hy : at::zeros_like(cx), t = cy.tanh();
  auto d_c = d_h * o * (1 - t * t);
  if (grad_cy && grad_cy->defined()) d_c = d_c + *grad_cy;
  auto gates = at::cat({d_c * g * i * (1 - i), d_c * cx * f * (1 - f), d_c * i * (1 - g * g), d_h * t * o * (1 - o)}, 1);
  return {gates, d_c * f, has_bias ? gates.sum(0) : Tensor()};
}

}  // namespace

namespace at {
struct CUDAHooks : Hooks { using Hooks::Hooks; };  // torch looks for it by this name
using at::CUDAHooksRegistry, at::RegistererCUDAHooksRegistry;
REGISTER_CUDA_HOOKS(CUDAHooks)
namespace native {
REGISTER_CUDA_DISPATCH(lstm_cudnn_stub, &lstm_by_cudnn)
REGISTER_CUDA_DISPATCH(gru_cudnn_stub, &gru_by_cudnn)
}  // namespace native
}  // namespace at

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&simulate>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("copy_", copy);
  m.impl("_cudnn_rnn", cudnn_rnn);
  m.impl("_cudnn_rnn_backward", cudnn_rnn_backward);
  m.impl("_cudnn_rnn_flatten_weight", flatten_weight);
  m.impl("_thnn_fused_gru_cell", gru_cell);
  m.impl("_thnn_fused_gru_cell_backward", gru_cell_backward);
  m.impl("_thnn_fused_lstm_cell", lstm_cell);
  m.impl("_thnn_fused_lstm_cell_backward_impl", lstm_cell_backward);
  // one kernel on CUDA where the CPU has a composition of several
  for (const char* name : {"convolution", "convolution_backward", "_embedding_bag", "_embedding_bag_forward_only"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&simulate>());
  for (const auto& name : c10::Dispatcher::singleton().getAllOpNames())
    if (name.name.rfind("aten::_foreach_", 0) == 0)
      m.impl(c10::toString(name).c_str(), torch::CppFunction::makeFromBoxedFunction<&simulate>());
}

TORCH_LIBRARY_IMPL(aten, Autocast, m) { m.impl("_cudnn_rnn", cudnn_rnn_autocast); }

extern "C" {
void simulated_report(Report to) { report = to; }

void simulated_reset() {
  std::lock_guard<std::mutex> lock(counting);
  launches.clear();
}

// "op count" lines; the caller copies them before the next call
const char* simulated_launches() {
  static std::string text;
  std::lock_guard<std::mutex> lock(counting);
  std::ostringstream lines;
  for (const auto& [op, times] : launches) lines << op << ' ' << times << '\n';
  text = lines.str();
  return text.c_str();
}
}
