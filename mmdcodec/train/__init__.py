"""Training: start with `loop`.

loop           the training loop, for every task
task           what a task must and may say; codec_task and lm_task are two
config_files   configs on a command line; settings checks them
program        what a run compiles: its start and its step on a mesh; compile
               does so for a TPU slice without one
state          the training state, and one guarded update of it
gradients      gradients that take several backward passes
optimizer      optimizers and learning-rate schedules
trainable      which parameters a run trains; low-rank additions
warm_start     starting from the weights of a trained model
preemption     a SIGTERM that all processes act on at the same step
reporting      what the loop prints and logs: metrics, speed, time left, profile

Parts of the codec's task: reconstruction_losses, adversarial (a step of the
discriminators), independence_term, encoder_gradients, codec_evaluation.
"""
