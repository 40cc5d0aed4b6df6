"""The exact step in NumPyro: TraceEnum_ELBO, gradient and Adam in one jit.

Every module is evaluated once over the batch, as in our bank: weights by index take
longer.
"""

import os

os.environ["XLA_FLAGS"] = (
    "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.funsor import config_enumerate
from numpyro.infer import SVI, TraceEnum_ELBO
from served import layered_problem, serve


def make(setting):
    found = {k: jnp.array(v) for k, v in layered_problem(setting).items()}
    x, y = found.pop("x"), found.pop("y")

    @config_enumerate
    def model(x, y):
        p = {name: numpyro.param(name, value) for name, value in found.items()}
        with numpyro.plate("data", len(x)):
            z = x @ p["encoder.weight"].T + p["encoder.bias"]
            for i in range(setting["L"]):
                logits = z @ p[f"routers.{i}.weight"].T + p[f"routers.{i}.bias"]
                a = numpyro.sample(f"a{i}", dist.Categorical(logits=logits))
                w, b = p[f"weights.{i}"], p[f"biases.{i}"]
                every = jnp.einsum("...nd,mde->m...ne", z, w)
                every = jnp.tanh(every + b.reshape(len(b), *(1,) * (z.ndim - 1), -1))
                if a.ndim > 1:  # enumerated: the modules stand where the route does
                    new = (1,) * (a.ndim - z.ndim)
                    z = every.reshape(len(w), *new, *z.shape)
                else:
                    z = jnp.take_along_axis(every, a[None, :, None], 0)[0]
            logits = z @ p["head.weight"].T + p["head.bias"]
            numpyro.sample("y", dist.Categorical(logits=logits), obs=y)

    def guide(x, y):
        pass

    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), TraceEnum_ELBO(1))
    state = svi.init(jax.random.PRNGKey(0), x, y)
    loss = float(svi.evaluate(state, x, y)) / len(x)
    step = jax.jit(lambda state: svi.update(state, x, y))
    held = [state]

    def run(n):
        for _ in range(n):
            held[0], value = step(held[0])
        jax.block_until_ready((held[0], value))

    return run, {"loss": loss}


if __name__ == "__main__":
    serve(make, "numpyro", "jax", "funsor")
