(* The gradients of one convolution are the nested loops that a backward pass runs. *)

From ResNeXt Require Export Gradients.

Section Backward.
Context {K : commutative_ring}.
Add Ring ring_of_K : (laws K).

(* A dense convolution is a grouped one with a single group. *)
Lemma conv_is_one_group g n m (w : kernel K) X o :
  o < m -> same_plane (conv g n w X o) (grouped_conv g n m w X o).
Proof. intros Ho b y x. unfold conv, grouped_conv. rewrite Nat.div_small by exact Ho. reflexivity. Qed.

(* The product rule for grouped convolutions. *)
Lemma derivative_of_grouped_conv g n m (w dw : kernel K) X dX o b y x :
  derivative (grouped_conv g n m (dual_kernel w dw) (dual_map X dX) o) b y x
  = grouped_conv g n m w dX o b y x ⊕ grouped_conv g n m dw X o b y x.
Proof.
  exact (derivative_of_conv g n w dw (fun c => X ((o / m) * n + c)) (fun c => dX ((o / m) * n + c)) o b y x).
Qed.

(* There are C groups of n input and m output channels, N images, and output maps of H × W pixels. G is the
   loss's gradient with respect to the output. *)
Variables (g : geometry) (C n m N H W : nat) (G : map K).

Lemma correlate_of_zero w (p : plane K) b y x :
  (forall y' x', p b y' x' = zero) -> correlate g w p b y x = zero.
Proof.
  intros Hp. apply sum_zero; intros u _. apply sum_zero; intros v _.
  unfold padded. destruct (_ && _ && _ && _); rewrite ?Hp; ring.
Qed.

(* The derivative along one weight, and along one pixel. *)

Lemma along_weight (w : kernel K) X o c u v o' : same_plane
  (derivative (grouped_conv g n m (dual_kernel w (at_entry o c u v)) (dual_map X no_map) o'))
  (grouped_conv g n m (at_entry o c u v) X o').
Proof.
  intros b y x. rewrite derivative_of_grouped_conv.
  unfold grouped_conv at 1. rewrite sum_zero; [ring|].
  intros k _. apply correlate_of_zero. reflexivity.
Qed.

Lemma along_pixel w (X : map K) k b y x o' : same_plane
  (derivative (grouped_conv g n m (dual_kernel w no_kernel) (dual_map X (at_pixel k b y x)) o'))
  (grouped_conv g n m w (at_pixel k b y x) o').
Proof.
  intros b' y' x'. rewrite derivative_of_grouped_conv.
  unfold grouped_conv at 2. rewrite (sum_zero n); [ring|].
  intros k' _. apply correlate_zero. reflexivity.
Qed.

(* The gradient of one weight (output channel o, input channel c of its group, kernel row u, column v) is the
   output's gradient times the pixel that this weight multiplied, summed over all images and output pixels. *)
Theorem weight_gradient (w : kernel K) X o c u v :
  o < C * m -> c < n -> u < kernel_height g -> v < kernel_width g ->
  change_of_loss (C * m) N H W G (fun o' =>
    derivative (grouped_conv g n m (dual_kernel w (at_entry o c u v)) (dual_map X no_map) o'))
  = sum N (fun b => sum H (fun y => sum W (fun x =>
      G o b y x ⊗ padded g (X ((o / m) * n + c)) b
        (y * stride g + u * dilation g) (x * stride g + v * dilation g)))).
Proof.
  intros Ho Hc Hu Hv.
  rewrite (change_of_loss_equal (C * m) N H W G _ _ (along_weight w X o c u v)). unfold change_of_loss.
  rewrite (sum_one_term (C * m) o); [|exact Ho|].
  - apply sum_equal; intros b _. apply sum_equal; intros y _. apply sum_equal; intros x _. f_equal.
    unfold grouped_conv, correlate. rewrite (sum_one_term n c); [|exact Hc|].
    + rewrite (sum_one_term (kernel_height g) u); [|exact Hu|].
      * rewrite (sum_one_term (kernel_width g) v); [|exact Hv|].
        -- unfold at_entry. rewrite !Nat.eqb_refl. simpl. ring.
        -- intros v' _ Hne. unfold at_entry. apply Nat.eqb_neq in Hne. rewrite Hne, andb_false_r. ring.
      * intros u' _ Hne. apply sum_zero; intros v' _. unfold at_entry. apply Nat.eqb_neq in Hne.
        rewrite Hne, andb_false_r. simpl. ring.
    + intros c' _ Hne. apply sum_zero; intros u' _. apply sum_zero; intros v' _. unfold at_entry.
      apply Nat.eqb_neq in Hne. rewrite Hne, andb_false_r. simpl. ring.
  - intros o' _ Hne. apply sum_zero; intros b _. apply sum_zero; intros y _. apply sum_zero; intros x _.
    unfold grouped_conv. rewrite sum_zero; [ring|]. intros c' _. apply correlate_zero. intros u' v'.
    unfold at_entry. apply Nat.eqb_neq in Hne. rewrite Hne. reflexivity.
Qed.

Lemma padded_at_pixel c b y x y' x' : y < map_height g -> x < map_width g ->
  padded g (at_pixel c b y x c) b y' x'
  = if (y' =? padding g + y) && (x' =? padding g + x) then (one : K) else zero.
Proof.
  intros Hy Hx. unfold padded, at_pixel. rewrite !Nat.eqb_refl. simpl.
  destruct (Nat.leb_spec (padding g) y'), (Nat.ltb_spec y' (padding g + map_height g)),
           (Nat.leb_spec (padding g) x'), (Nat.ltb_spec x' (padding g + map_width g)); simpl;
  destruct (Nat.eqb_spec y' (padding g + y)), (Nat.eqb_spec x' (padding g + x));
    simpl; try reflexivity; try lia;
  destruct (Nat.eqb_spec (y' - padding g) y), (Nat.eqb_spec (x' - padding g) x); simpl; try reflexivity; lia.
Qed.

(* The gradient of one pixel (channel k of group i, image b, row y, column x) is the sum over the group's
   output channels, and over all pairs of an output pixel and a kernel position that read this pixel. *)
Theorem input_gradient w (X : map K) i k b y x :
  i < C -> k < n -> b < N -> y < map_height g -> x < map_width g ->
  change_of_loss (C * m) N H W G (fun o' =>
    derivative (grouped_conv g n m (dual_kernel w no_kernel) (dual_map X (at_pixel (i * n + k) b y x)) o'))
  = sum m (fun j => sum H (fun y' => sum W (fun x' =>
    sum (kernel_height g) (fun u => sum (kernel_width g) (fun v =>
      if (y' * stride g + u * dilation g =? padding g + y) &&
         (x' * stride g + v * dilation g =? padding g + x)
      then G (i * m + j) b y' x' ⊗ w (i * m + j) k u v
      else zero))))).
Proof.
  intros Hi Hk Hb Hy Hx.
  rewrite (change_of_loss_equal (C * m) N H W G _ _ (along_pixel w X (i * n + k) b y x)).
  unfold change_of_loss. rewrite sum_by_paths.
  rewrite (sum_one_term C i); [|exact Hi|].
  - apply sum_equal; intros j Hj.
    rewrite (sum_one_term N b); [|exact Hb|].
    + apply sum_equal; intros y' _. apply sum_equal; intros x' _.
      unfold grouped_conv. rewrite path_of_channel by exact Hj.
      rewrite (sum_one_term n k); [|exact Hk|].
      * unfold correlate. rewrite <- sum_scale. apply sum_equal; intros u _.
        rewrite <- sum_scale. apply sum_equal; intros v _.
        rewrite padded_at_pixel by assumption. destruct (_ && _); ring.
      * intros k' Hk' Hne. apply correlate_of_zero. intros y'' x''. unfold at_pixel.
        rewrite same_channel by assumption. apply Nat.eqb_neq in Hne. rewrite Hne, andb_false_r. reflexivity.
    + intros b' _ Hne. apply sum_zero; intros y' _. apply sum_zero; intros x' _.
      unfold grouped_conv. rewrite sum_zero; [ring|]. intros k' _. apply correlate_of_zero. intros y'' x''.
      unfold at_pixel. apply Nat.eqb_neq in Hne. rewrite Hne, andb_false_r. reflexivity.
  - intros i' _ Hne. apply sum_zero; intros j Hj. apply sum_zero; intros b' _.
    apply sum_zero; intros y' _. apply sum_zero; intros x' _.
    unfold grouped_conv. rewrite sum_zero; [ring|]. intros k' Hk'. apply correlate_of_zero. intros y'' x''.
    unfold at_pixel. rewrite path_of_channel, same_channel by assumption.
    apply Nat.eqb_neq in Hne. rewrite Hne. reflexivity.
Qed.

End Backward.
